"""Region: a named block of shared memory and its read/write lock."""

import errno
import os
import sys
import warnings
from sys import getrefcount
from threading import Lock, get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn
from weakref import WeakSet

from . import _native, control, elements, layouts, segment
from ._native import SHRUNK
from .asynclock import Cohort
from .errors import RegionExistsError, RegionNotFoundError
from .filelock import Opener, closed, failure
from .hold import Hold, ReadHold, WriteHold, check_timeout
from .layouts import Layout, Plan
from .loops import NO_TASK, Task, adapt, current_loop
from .mapping import Mapping
from .synclock import Pool

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Region"]

Owner = Literal["me", "any"]

#: How often `open` attaches and creates in turn: each failure means that somebody
#: created or unlinked the name in between.
OPEN_TRIES = 100


class Region:
    """A named block of shared memory, mapped into this process, and its lock.

    Made by `create`, `attach` or `open`. Any number of tasks, threads and event
    loops may use it. End it with `close` or a ``with`` block.

    After a fork the child's copy works and holds nothing; nothing that the child
    does reaches the parent's locks.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_cohort",
        "_cohorts",
        "_control",
        "_created",
        "_fd",
        "_identity",
        "_name",
        "_opener",
        "_plan",
        "_pool",
        "_readonly",
        "_spare_read",
        "_spare_write",
    )

    _fd: int  # the first descriptor: never takes a flock, is what new OFDs are opened from
    _name: str
    _identity: tuple[int, int]  # st_dev, st_ino
    _plan: Plan
    _created: bool
    _readonly: bool
    _closing: Lock  # held for good once the region is closed
    _cohort: Cohort  # of the loop that was the last to use us; NOWHERE if there is none
    _cohorts: dict[object, Cohort]  # by event loop
    _control: _native.Control | None  # valid as long as _opener's mapping
    _opener: Opener | None  # None once closed: it keeps the memory mapped
    _pool: Pool
    _spare_read: ReadHold | None  # handed out again when nobody else refers to it
    _spare_write: WriteHold | None

    # ---- making one ------------------------------------------------------------

    def __init__(self) -> None:
        raise TypeError("use Region.create, Region.attach or Region.open")

    @classmethod
    def create(
        cls,
        name: str,
        length: int,
        *,
        dtype: str = "uint8",
        mode: int = 0o600,
        layout: Layout = "managed",
        reserve: bool = True,
        lock_memory: bool = False,
    ) -> "Self":
        """Create a region that must not exist yet. Its data is zero.

        Blocks while the kernel reserves the memory. Nobody ever sees the region
        half-made, and nothing is left of it when this fails.

        Args:
            name: its name in /dev/shm, with or without a leading slash.
            length: number of elements.
            dtype: element type: int8 to int64, uint8 to uint64, float32, float64.
            mode: permission bits; the umask has no say.
            layout: "managed" (default) adds a control page behind the data;
                "raw" is the data alone, for programs that expect just that.
            reserve: take the memory now. False leaves it to the first store,
                which is SIGBUS if /dev/shm is full by then.
            lock_memory: keep touched pages in memory, out of swap (mlock2).

        Raises:
            RegionExistsError: the name is taken.
            OSError: ENOSPC, /dev/shm is too full; ENOMEM, EPERM, the limit on
                locked memory is too low.
            ValueError, TypeError: an argument makes no sense.
        """
        name = segment.check_name(name)
        segment.check_mode(mode)
        plan = layouts.plan(
            elements.check_length(length),
            dtype=elements.check_dtype(dtype),
            layout=layouts.check_layout(layout),
            sparse=not reserve,
        )
        segment.check_size(name, plan.size, reserve=reserve)
        tail = b""
        if plan.layout == "managed":
            tail = control.pack(length=plan.length, dtype=plan.dtype, sparse=plan.sparse)
        mapping: list[Mapping] = []

        def before_it_has_a_name(fd: int) -> None:
            mapping.append(_map(fd, plan, name, readonly=False, lock_memory=lock_memory))

        fd = segment.create(
            name,
            plan.size,
            mode=mode,
            reserve=reserve,
            tail=tail,
            prepare=before_it_has_a_name,
        )
        return cls._made(fd, mapping[-1], plan, created=True)

    @classmethod
    def attach(
        cls,
        name: str,
        length: int | None = None,
        *,
        dtype: str | None = None,
        layout: Layout | None = None,
        readonly: bool = False,
        owner: Owner = "me",
        lock_memory: bool = False,
    ) -> "Self":
        """Attach to a region that exists.

        May block: up to a second when a creator is at work that cannot create in
        one step, and while the kernel reserves memory that its creator did not.

        Args:
            name: its name in /dev/shm, with or without a leading slash.
            length: number of elements to use; None means all.
            dtype: element type; None means the region's own, uint8 for a raw one.
            layout: None recognises it. "raw" shows a managed region's bytes as they are.
            readonly: ask for read permission alone: no write locks.
            owner: "me" refuses what belongs to another user than you or root,
                "any" trusts it.
            lock_memory: keep touched pages in memory, out of swap (mlock2).

        Raises:
            RegionNotFoundError: there is no such region.
            RegionSizeError: it is smaller than asked for.
            RegionFormatError: it is no region, or not of that dtype or layout.
            PermissionError: its mode or its owner forbids it.
            OSError: ENOSPC, ENOMEM, EPERM as for `create`.
            ValueError, TypeError: an argument makes no sense.
        """
        return cls._attach(name, length, dtype, layout, readonly, owner, lock_memory, reserve=True)

    @classmethod
    def open(
        cls,
        name: str,
        length: int,
        *,
        dtype: str = "uint8",
        mode: int = 0o600,
        layout: Layout | None = None,
        reserve: bool = True,
        lock_memory: bool = False,
        owner: Owner = "me",
    ) -> "Self":
        """Attach to a region, or create it if there is none; `created` tells which.

        Arguments and errors are those of `create` and `attach`. `mode` counts only
        for a new region. `layout` None creates a managed one and takes any.
        """
        for _ in range(OPEN_TRIES):
            try:
                return cls._attach(name, length, dtype, layout, False, owner, lock_memory, reserve)
            except RegionNotFoundError:
                pass
            try:
                return cls.create(
                    name,
                    length,
                    dtype=dtype,
                    mode=mode,
                    layout=layout or "managed",
                    reserve=reserve,
                    lock_memory=lock_memory,
                )
            except RegionExistsError as error:
                last = error
        raise last

    @classmethod
    def _attach(
        cls,
        name: str,
        length: int | None,
        dtype: str | None,
        layout: Layout | None,
        readonly: bool,
        owner: Owner,
        lock_memory: bool,
        reserve: bool,
    ) -> "Self":
        name = segment.check_name(name)
        length = None if length is None else elements.check_length(length)
        dtype = None if dtype is None else elements.check_dtype(dtype)
        layout = None if layout is None else layouts.check_layout(layout)
        fd, found = segment.attach(name, readonly=readonly, owner=segment.check_owner(owner))
        try:
            plan = layouts.recognise(
                fd, found.st_size, name, length=length, dtype=dtype, layout=layout
            )
            if reserve and not readonly and not plan.sparse:
                segment.reserve_sparse(fd, name, found, plan.size)
            mapping = _map(fd, plan, name, readonly=readonly, lock_memory=lock_memory)
        except BaseException:
            os.close(fd)
            raise
        return cls._made(fd, mapping, plan, created=False)

    @classmethod
    def _made(cls, fd: int, mapping: Mapping, plan: Plan, *, created: bool) -> "Self":
        self = cls.__new__(cls)
        self._closing = Lock()
        self._fd = fd
        self._name = mapping.name
        self._plan = plan
        self._created = created
        self._readonly = mapping.readonly
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)
        self._control = mapping.control() if plan.layout == "managed" else None
        view = elements.typed_view(mapping.view(plan.nbytes), plan.dtype)
        self._opener = Opener(fd, self._identity, mapping, self._control, view)
        self._spare_read = None
        self._spare_write = None
        self._start_afresh()
        _open_regions.add(self)
        return self

    def _start_afresh(self) -> None:
        """Begin, or begin again in a forked child, with no lock held and no OFD open."""
        assert self._opener is not None
        self._pool = Pool(self._opener)
        self._cohorts = {}
        self._cohort = NOWHERE

    # ---- end -------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the region; it goes on existing. Closing twice is fine. Never blocks.

        Tasks and threads that wait for its lock get RegionClosedError, threads
        within a tenth of a second. Who holds a lock keeps it until released. The
        memory is given back as soon as no view of it is left.
        """
        if not self._closing.acquire(blocking=False):
            return
        _open_regions.discard(self)
        cohorts, self._cohorts, self._cohort = self._cohorts, {}, NOWHERE
        for cohort in cohorts.values():
            _close_in_its_thread(cohort)
        self._pool.close()
        self._opener = self._control = None
        self._spare_read = self._spare_write = None
        os.close(self._fd)

    def unlink(self) -> None:
        """Remove the name. Who is attached stays so; a new region may take the name.

        Works on a closed region, too.

        Raises:
            RegionNotFoundError: the name is gone, or leads to another object.
        """
        segment.unlink(self._name, self._identity)

    def __enter__(self) -> "Self":
        self._usable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Self":
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: attach to it by name")

    def __del__(self) -> None:
        closing = getattr(self, "_closing", None)
        if closing is not None and not closing.locked() and not sys.is_finalizing():
            message = f"{self!r} was never closed"
            self.close()
            warnings.warn(message, ResourceWarning, 2)

    # ---- locks -----------------------------------------------------------------

    def read_lock(self, *, timeout: float | None = None, fast_acquire: bool = True) -> ReadHold:
        """A read lock, to be used with ``async with`` or ``with``: many readers, no writer.

        It is shared with all who are attached, in any process, and with programs
        that use flock(2) on the object.

        Args:
            timeout: seconds after which ``with`` gives up (LockTimeoutError).
            fast_acquire: False makes ``async with`` yield once even if the lock is free.

        Raises:
            RegionClosedError: here or when it is acquired.
            ValueError, TypeError: `timeout` is no number of seconds.
        """
        hold = self._spare_read
        if timeout is None and fast_acquire and getrefcount(hold) == ALONE:
            return hold  # type: ignore[return-value]  # None is never alone
        hold = ReadHold(self, self._usable().readable, check_timeout(timeout), fast_acquire)
        self._spare_read = hold if hold._plain else None
        return hold

    def write_lock(self, *, timeout: float | None = None, fast_acquire: bool = True) -> WriteHold:
        """The write lock, to be used with ``async with`` or ``with``: nobody else is inside.

        Arguments and errors are those of `read_lock`.

        Raises:
            PermissionError: the region was attached with ``readonly=True``.
        """
        hold = self._spare_write
        if timeout is None and fast_acquire and getrefcount(hold) == ALONE:
            return hold  # type: ignore[return-value]  # None is never alone
        whole = self._usable().writable
        if self._readonly:
            raise PermissionError(
                errno.EACCES, "attached with readonly=True: there are no write locks", self._name
            )
        hold = WriteHold(self, whole, check_timeout(timeout), fast_acquire)
        self._spare_write = hold if hold._plain else None
        return hold

    def _disown(self, hold: Hold) -> None:
        """Never hand this hold out again: its user may keep it while it is held."""
        if hold is self._spare_write:
            self._spare_write = None
        elif hold is self._spare_read:
            self._spare_read = None

    def _join_cohort(self) -> tuple[Cohort, Task]:
        """The cohort of the running event loop, and the task that runs."""
        cohort = self._cohort
        if cohort.thread == get_ident() and (task := cohort.current_task()) is not None:
            return cohort, task
        native = current_loop()
        known = self._cohorts.get(native)
        cohort = self._cohort = known if known is not None else self._new_cohort(native)
        task = cohort.current_task()
        return cohort, NO_TASK if task is None else task

    def _new_cohort(self, native: object) -> Cohort:
        self._forget_finished_loops()
        try:
            cohort = self._cohorts[native] = Cohort(self._usable(), adapt(native))
        except OSError:
            self._usable()  # closed meanwhile: there was nothing left to open it from
            raise
        if self._opener is None:  # closed meanwhile, and close() did not see this one
            cohort.close()
            raise closed(self._name)
        return cohort

    def _renew(self) -> None:
        """The locks turned out to be a parent's: make our own."""
        self._usable()
        self._start_afresh()

    def _forget_finished_loops(self) -> None:
        for native, cohort in list(self._cohorts.items()):
            if cohort.loop.is_over():
                self._cohorts.pop(native, None)
                cohort.abandon()

    def _reads_here(self) -> bool:
        """Whether this thread, or its event loop, has a lock that a reader may share."""
        here = get_ident()
        return self._pool.reads_here() or any(
            cohort.thread == here and cohort.readers for cohort in list(self._cohorts.values())
        )

    def _refuse_to_wait_for_oneself(self, exclusive: bool) -> None:
        """Raise RuntimeError if the lock is held by this very thread, which is about to block."""
        here = get_ident()
        self._forget_finished_loops()
        if self._pool.held_here(exclusive_only=not exclusive):
            holder = "this thread holds"
        elif any(
            cohort.thread == here and cohort.conflicts(exclusive)
            for cohort in list(self._cohorts.values())
        ):
            holder = "a task of this thread's event loop holds"
        else:
            return
        raise RuntimeError(
            f"{holder} a lock of region {self._name!r}, and blocking the thread would wait "
            "for it for ever: release it first, or use `async with`"
        )

    # ---- memory ----------------------------------------------------------------

    @property
    def buffer(self) -> memoryview:
        """The data, without a lock, as a new typed memoryview; read-only if the region is.

        For single loads and stores that need no lock, or under a lock held elsewhere.
        """
        return self._usable().writable[:]

    # ---- facts -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name, without a leading slash."""
        return self._name

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self._plan.nbytes

    @property
    def dtype(self) -> str:
        """Name of the element type."""
        return self._plan.dtype

    @property
    def layout(self) -> Layout:
        """Where the data lies: "managed" or "raw"."""
        return self._plan.layout

    @property
    def created(self) -> bool:
        """Whether this object created the region, rather than attached to it."""
        return self._created

    @property
    def readonly(self) -> bool:
        """Whether it was attached for reading only."""
        return self._readonly

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.locked()

    @property
    def generation(self) -> int | None:
        """How far writing has come: each write lock adds 2, and it is odd while one is held.

        Odd with no writer inside means that one died there. None for raw regions,
        which have no place to keep it. Needs no lock.

        Raises:
            RegionSizeError: the object was truncated.
        """
        opener = self._usable()
        control = self._control
        if control is None:
            return None
        if os.fstat(self._fd).st_size < opener.mapping.size:  # else: SIGBUS
            raise failure(SHRUNK, self._name)
        return _native.control_generation(control)

    @property
    def linked(self) -> bool:
        """Whether the name still leads to this very object."""
        self._usable()
        return segment.leads_to(self._name, self._identity)

    def __len__(self) -> int:
        """Number of elements."""
        return self._plan.length

    def __repr__(self) -> str:
        plan = self._plan
        states = [plan.layout, "closed" if self.closed else "open"]
        if self._readonly:
            states.insert(1, "readonly")
        return f"<Region {self._name!r}: {plan.length} x {plan.dtype}, {', '.join(states)}>"

    def _usable(self) -> Opener:
        opener = self._opener
        if opener is None:
            raise closed(self._name)
        return opener


def _map(fd: int, plan: Plan, name: str, *, readonly: bool, lock_memory: bool) -> Mapping:
    mapping = Mapping(fd, plan.size, readonly=readonly, name=name)
    if lock_memory:
        mapping.lock_memory()
    return mapping


def _close_in_its_thread(cohort: Cohort) -> None:
    """Close a cohort where its loop runs, or here if that loop is over."""
    if cohort.thread != get_ident() and cohort.loop.is_running():
        try:
            cohort.loop.call_from_thread(cohort.close)
        except RuntimeError:  # the loop is over
            pass
        else:
            return
    cohort.close()


# ---- handing a hold out again ----------------------------------------------------


def _refcount_when_alone() -> int:
    """What getrefcount says of an object that one attribute and one variable refer to."""

    class Holder:
        spare = object()

    spare = Holder.spare
    return getrefcount(spare)


#: A hold that nobody refers to but its region and the call that is about to return it.
#: Free-threaded builds count otherwise: there a hold is never handed out twice.
ALONE = _refcount_when_alone() if getattr(sys, "_is_gil_enabled", lambda: True)() else -1


# ---- no cohort, and forks ----------------------------------------------------------


NOWHERE = Cohort.__new__(Cohort)
NOWHERE.thread = 0  # no thread's ident
NOWHERE.idle = False

_open_regions: WeakSet[Region] = WeakSet()


def _after_fork_in_child() -> None:
    for region in list(_open_regions):
        region._start_afresh()


os.register_at_fork(after_in_child=_after_fork_in_child)
