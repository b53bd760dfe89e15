"""The API of the Node package mmap-ipc 1.0.0, on top of Region.

It works together with processes that run mmap-ipc itself: the same object
(``/dev/shm/NAME``), the same offsets (byte 0 is the first of the data), the same
flock(2). The differences, with their reasons:

* No name is removed while it is in use. mmap-ipc removes the name whenever one process
  collects its buffer as garbage, even if other processes still use it. Here the name stays
  until ``region.unlink()``.
* A new object is for its owner alone (0o600). mmap-ipc makes it 0o777 less the umask.
* Its memory is reserved, so a full /dev/shm is an OSError at the start, never a SIGBUS.
* On a managed region whose last writer died during its write, a lock raises OwnerDiedError,
  until ``region.write_lock(recover=True)`` has made it sound. Objects made by this module or by
  mmap-ipc are raw: there a death cannot be noticed.
* A `size` larger than the object raises RegionSizeError; mmap-ipc maps memory beyond its end.
* ``lock_memory=True`` raises OSError if the kernel refuses; mmap-ipc ignores that.
* A lock belongs to the thread, or task, that took it. In mmap-ipc it belongs to the object,
  and all users of the object share it.
* `remove_lock` tells whether there was a lock; mmap-ipc always returns true.
"""

import os
from abc import ABC, abstractmethod
from threading import local
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from ._lock.hold import Hold
from ._lock.loops import Task, adapt, current_loop, may_run_a_loop
from ._memory.elements import check_length
from ._memory.names import check_name
from ._region import OPEN_TRIES, Region
from .errors import RegionExistsError, RegionNotFoundError, RegionSizeError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncMmapIPC", "MmapIPC"]


class _Shared(ABC):
    """A mapped object: the common part for threads and for tasks."""

    __slots__ = ("_pid", "_size", "region")

    region: Region  #: the region below it, for transactions, statistics, ``unlink`` and more
    _pid: int  # of the process that took the locks: a forked child has none of them

    def __init__(
        self, shm_name: str, size: int, lock_memory: bool = False, *, mode: int = 0o600
    ) -> None:
        """Attach to the object, or create it if there is none.

        May block: up to a second when its creator is at work, and while the kernel
        reserves the memory.

        Args:
            shm_name: its name in /dev/shm, with or without a slash in front.
            size: bytes to use, from its start; an existing object may have more.
            lock_memory: keep touched pages in memory, out of swap (mlock2).
            mode: permission bits of a new object.

        Raises:
            RegionSizeError: it is smaller.
            PermissionError: it is another user's.
            OSError: ENOSPC, no room; ENOMEM, EPERM, the limit on locked memory is too low.
            ValueError, TypeError: an argument makes no sense.
        """
        self._size = check_length(size, "size")
        self.region = _open(check_name(shm_name), self._size, lock_memory, mode)
        self._pid = os.getpid()
        self._forget()

    def buffer(self) -> memoryview:
        """Return the ``size`` bytes, writable. Never blocks; the caller must hold the lock.

        A buffer that outlives its object is stale, but cannot crash.

        Raises:
            RegionClosedError: it is closed.
        """
        return self.region.buffer.cast("B")[: self._size]

    def close(self) -> None:
        """Remove the caller's lock, and detach from the object, which goes on existing.

        Closing twice is fine. Other threads or tasks of this process that hold a lock keep it
        until they remove it. Never blocks and raises nothing.
        """
        if not self.region.closed:
            self._remove()
            self.region.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.region.closed else "open"
        return f"<{type(self).__name__} {self.region.name!r}: {self._size} bytes, {state}>"

    # ---- the caller's lock -------------------------------------------------------

    def _held(self) -> Hold | None:
        """Return the caller's lock; None: it has none."""
        if self._pid != os.getpid():  # a forked child: the known locks are its parent's
            self._pid = os.getpid()
            _let_go(self._get())
            self._forget()
        hold = self._get()
        return None if hold is None or _mode(hold) is None else hold

    def _remove(self) -> bool:
        hold = self._held()
        if hold is not None:
            hold.release()
        self._set(None)
        return hold is not None

    @abstractmethod
    def _forget(self) -> None:
        """Begin again in a forked child, without any lock."""

    @abstractmethod
    def _get(self) -> Hold | None:
        """Return the hold that was set for the caller."""

    @abstractmethod
    def _set(self, hold: Hold | None) -> None:
        """Remember the caller's hold."""


class MmapIPC(_Shared):
    """Shared memory with a read/write lock that blocks the calling thread.

    A lock belongs to the thread that took it. After a fork the child has no lock, and
    cannot affect its parent's.
    """

    __slots__ = ("_mine",)

    _mine: local  # .hold: this thread's lock, set before it is acquired: an interrupt loses nothing

    def acquire_read_lock(self) -> bool:
        """Block until the read lock is granted; downgrade a write lock. Return True, or raise.

        Signal handlers run, and an exception in one (Ctrl-C) ends the wait.

        Raises:
            RegionClosedError, RegionSizeError, OwnerDiedError, RuntimeError: as for regions.
        """
        held = self._held()
        if held is None:
            self._acquire(self.region.read_lock())
        elif _mode(held) == "write":
            held.downgrade()
        return True

    def acquire_write_lock(self) -> bool:
        """Block until the write lock is granted; upgrade a read lock. Return True, or raise.

        After an upgrade while others read, another writer may have come first: read again.

        Raises:
            RegionClosedError, RegionSizeError, OwnerDiedError, RuntimeError: as for regions.
        """
        held = self._held()
        if held is None:
            self._acquire(self.region.write_lock())
        elif _mode(held) == "read":
            held.upgrade_blocking()
        return True

    def remove_lock(self) -> bool:
        """Remove this thread's lock. Tell whether there was one.

        Never blocks and raises nothing.
        """
        return self._remove()

    def _acquire(self, hold: Hold) -> None:
        self._set(hold)
        hold.acquire_blocking()

    def _forget(self) -> None:
        self._mine = local()

    def _get(self) -> Hold | None:
        hold: Hold | None = getattr(self._mine, "hold", None)
        return hold

    def _set(self, hold: Hold | None) -> None:
        self._mine.hold = hold


class AsyncMmapIPC(_Shared):
    """Shared memory with a read/write lock that is awaited.

    A lock belongs to the task that took it: the tasks of one program exclude each other,
    as processes do. Waiting never blocks the event loop; a cancelled wait holds nothing.
    A task must remove its lock before it ends. After a fork the child has none.
    """

    __slots__ = ("_holds",)

    _holds: dict[Task, Hold]  # by task; there before it is acquired, gone when nothing is held

    async def acquire_read_lock(self) -> bool:
        """Wait until the read lock is granted; downgrade a write lock. Return True, or raise.

        A cancelled wait holds nothing.

        Raises:
            RegionClosedError, RegionSizeError, OwnerDiedError, RuntimeError: as for regions.
        """
        held = self._held()
        if held is None:
            await self._acquire(self.region.read_lock())
        elif _mode(held) == "write":
            held.downgrade()
        return True

    async def acquire_write_lock(self) -> bool:
        """Wait until the write lock is granted; upgrade a read lock. Return True, or raise.

        After an upgrade while others read, another writer may have come first: read again.
        A task that is cancelled while it upgrades has no lock any more.

        Raises:
            RegionClosedError, RegionSizeError, OwnerDiedError, RuntimeError: as for regions.
        """
        held = self._held()
        if held is None:
            await self._acquire(self.region.write_lock())
        elif _mode(held) == "read":
            await self._upgrade(held)
        return True

    async def remove_lock(self) -> bool:
        """Remove this task's lock. Tell whether there was one.

        Never waits, so it cannot be cancelled, and raises nothing.
        """
        return self._remove()

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _acquire(self, hold: Hold) -> None:
        self._set(hold)
        try:
            await hold.acquire()
        except BaseException:
            self._set(None)
            raise

    async def _upgrade(self, hold: Hold) -> None:
        try:
            await hold.upgrade()
        except BaseException:
            if _mode(hold) is None:  # lost: the task may never call this object again
                self._set(None)
            raise

    def _forget(self) -> None:
        self._holds = {}

    def _get(self) -> Hold | None:
        task = _this_task()
        return None if task is None else self._holds.get(task)

    def _set(self, hold: Hold | None) -> None:
        task = _this_task()
        if hold is not None:
            self._holds[task] = hold
        elif task is not None:
            self._holds.pop(task, None)


def _mode(hold: Hold) -> Literal["read", "write"] | None:
    """Return the kind of lock that it holds now: a conversion may have changed or lost it."""
    try:
        return "read" if hold.view.readonly else "write"
    except RuntimeError:
        return None


def _let_go(hold: Hold | None) -> None:
    """Release a parent's hold in the child, which only silences its warning."""
    if hold is not None and _mode(hold) is not None:
        hold.release()


def _this_task() -> Task:
    """Return the running task; None outside of tasks, where there are no locks."""
    if not may_run_a_loop():
        return None
    try:
        native = current_loop()
        task: Task = adapt(native).tasks[native]
    except (RuntimeError, KeyError):  # KeyError: a callback of the loop
        return None
    return task


def _open(name: str, size: int, lock_memory: bool, mode: int) -> Region:
    """Attach to the object, or create it.

    A managed object is used as such: its generation shows if a writer of this package dies.
    """
    for _ in range(OPEN_TRIES):
        try:
            return _attach(name, size, lock_memory)
        except RegionNotFoundError:
            pass
        try:
            return Region.create(name, size, layout="raw", lock_memory=lock_memory, mode=mode)
        except RegionExistsError as error:
            last = error
    raise last


def _attach(name: str, size: int, lock_memory: bool) -> Region:
    region = Region.attach(name, lock_memory=lock_memory)
    if region.nbytes < size:
        nbytes = region.nbytes
        region.close()
        raise RegionSizeError(
            f"region {name!r} has {nbytes} bytes, not {size}: "
            "ask for fewer, or unlink it and create it again"
        )
    return region
