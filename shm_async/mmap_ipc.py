"""The API of the Node package mmap-ipc 1.0.0, on top of Region.

It works together with processes that run mmap-ipc itself: the same object
(``/dev/shm/NAME``), the same offsets (byte 0 is the first of the data), the same
flock(2). What differs, and why:

* Nothing is unlinked behind your back. mmap-ipc removes the name whenever one process
  collects its buffer as garbage, while the others still use it. Here the name stays
  until ``region.unlink()``.
* A new object is for its owner alone (0o600). mmap-ipc makes it 0o777 less the umask.
* Its memory is reserved, so a full /dev/shm is an OSError at the start, never a SIGBUS.
* On a managed region whose last writer died inside, locks are an OwnerDiedError, until
  ``region.write_lock(recover=True)`` has made it sound. Objects made by this module or by
  mmap-ipc are raw: there nobody can tell.
* A `size` that the object does not have is a RegionSizeError; mmap-ipc maps what is not there.
* ``lock_memory=True`` fails loudly where the kernel refuses; mmap-ipc ignores that.
* A lock belongs to the thread, or task, that took it. In mmap-ipc it belongs to the object,
  and whoever uses that goes in and out of it with everybody else.
* `remove_lock` tells whether there was a lock; mmap-ipc always says true.
"""

import os
from threading import local
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from .elements import check_length
from .errors import RegionExistsError, RegionNotFoundError, RegionSizeError
from .hold import Hold
from .loops import Task, adapt, current_loop
from .region import OPEN_TRIES, Region
from .segment import check_name

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncMmapIPC", "MmapIPC"]


class _Shared:
    """A mapped object; what it has in common for threads and for tasks."""

    __slots__ = ("_pid", "_size", "region")

    region: Region  #: what it stands on: transactions, statistics, ``unlink`` and more
    _pid: int  # of the process whose locks we know: a forked child has none of them

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
            RegionSizeError: it is smaller. PermissionError: it is another user's.
            OSError: ENOSPC, no room; ENOMEM, EPERM, the limit on locked memory is too low.
            ValueError, TypeError: an argument makes no sense.
        """
        self._size = check_length(size, "size")
        self.region = _open(check_name(shm_name), self._size, lock_memory, mode)
        self._pid = os.getpid()
        self._forget()

    def buffer(self) -> memoryview:
        """The `size` bytes, writable. Never blocks; it is for you to have the lock.

        A buffer that outlives its object is stale, never a crash.
        """
        return self.region.buffer.cast("B")[: self._size]

    def close(self) -> None:
        """Remove the lock that the caller has, and let go of the object; it goes on existing.

        Closing twice is fine. Others of this process who hold a lock keep it until they
        remove it. Never blocks.
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
        """The lock that the caller has."""
        if self._pid != os.getpid():  # a child: what we know of are its parent's
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

    def _forget(self) -> None:
        raise NotImplementedError

    def _get(self) -> Hold | None:
        raise NotImplementedError

    def _set(self, hold: Hold | None) -> None:
        raise NotImplementedError


class MmapIPC(_Shared):
    """Shared memory with a read/write lock that blocks the calling thread.

    A lock belongs to the thread that took it. After a fork the child has none, and
    nothing that it does reaches its parent's.
    """

    __slots__ = ("_mine",)

    _mine: local  # .hold: this thread's lock, set before it is acquired: an interrupt loses nothing

    def acquire_read_lock(self) -> bool:
        """Block until the read lock is granted; a write lock is downgraded. True, or an exception.

        Signal handlers run, and what they raise (Ctrl-C) ends the wait.

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
        """Block until the write lock is granted; a read lock is upgraded. True, or an exception.

        When it upgrades while others read, somebody may have written in between: read again.

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
        """Remove the lock that this thread has. Tell whether there was one. Never blocks."""
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

    _holds: dict[Task, Hold]  # by task; there before it is acquired, gone when it is removed

    async def acquire_read_lock(self) -> bool:
        """Wait until the read lock is granted; a write lock is downgraded. True, or an exception.

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
        """Wait until the write lock is granted; a read lock is upgraded. True, or an exception.

        When it upgrades while others read, somebody may have written in between: read again.
        Whoever is cancelled while upgrading has no lock any more.

        Raises:
            RegionClosedError, RegionSizeError, OwnerDiedError, RuntimeError: as for regions.
        """
        held = self._held()
        if held is None:
            await self._acquire(self.region.write_lock())
        elif _mode(held) == "read":
            await held.upgrade()
        return True

    async def remove_lock(self) -> bool:
        """Remove the lock that this task has. Tell whether there was one. Never waits."""
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

    def _forget(self) -> None:
        self._holds = {}

    def _get(self) -> Hold | None:
        return self._holds.get(_this_task())

    def _set(self, hold: Hold | None) -> None:
        if hold is None:
            self._holds.pop(_this_task(), None)
        else:
            self._holds[_this_task()] = hold


def _mode(hold: Hold) -> Literal["read", "write"] | None:
    """What it holds now: a conversion may have changed that, or failed and lost it."""
    try:
        return "read" if hold.view.readonly else "write"
    except RuntimeError:
        return None


def _let_go(hold: Hold | None) -> None:
    """Release a parent's hold in the child, which does nothing but silence its warning."""
    if hold is not None and _mode(hold) is not None:
        hold.release()


def _this_task() -> Task:
    """The running task; None outside of an event loop, where nobody has a lock."""
    try:
        native = current_loop()
    except RuntimeError:
        return None
    task: Task = adapt(native).tasks[native]
    return task


def _open(name: str, size: int, lock_memory: bool, mode: int) -> Region:
    """Attach to the object, or create it.

    A managed one is used as such: its generation tells when one of our writers dies.
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
