"""Region: a named block of shared memory. How it is locked is in locks.py."""

import os
import sys
import warnings
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn
from weakref import WeakSet

from . import _native, control, elements, layouts, segment
from ._native import SHRUNK
from .errors import RegionExistsError, RegionNotFoundError
from .filelock import Opener, failure
from .layouts import Layout, Plan
from .mapping import Mapping
from .recovery import OnOwnerDeath, check_policy
from .snapshot import Snapshots

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Region"]

Owner = Literal["me", "any"]

#: How often `open` attaches and creates in turn: each failure means that somebody
#: created or unlinked the name in between.
OPEN_TRIES = 100


class Region(Snapshots):
    """A named block of shared memory, mapped into this process, and its lock.

    Made by `create`, `attach` or `open`. Any number of tasks, threads and event
    loops may use it. End it with `close` or a ``with`` block.

    After a fork the child's copy works and holds nothing; nothing that the child
    does reaches the parent's locks.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_control",
        "_created",
        "_fd",
        "_identity",
        "_plan",
    )

    _fd: int  # the first descriptor: never takes a flock, is what new OFDs are opened from
    _identity: tuple[int, int]  # st_dev, st_ino
    _plan: Plan
    _created: bool
    _closing: Lock  # held for good once the region is closed
    _control: _native.Control | None  # valid as long as _opener's mapping

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
        on_owner_death: OnOwnerDeath = "raise",
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
            on_owner_death: what happens when one of our locks is granted and the last
                writer died inside. "raise": OwnerDiedError. "ignore": nothing, for data
                of which every store stands alone. A function: it is called with a hold of
                the write lock and puts the data right; then the region is sound, and
                the lock is asked for again. It is called in the thread, or the event
                loop, that found the death; what it raises goes to who wanted the lock.
                A raw region has no place for a writer's mark, and a program that uses
                flock alone makes none: of their deaths nobody is told.

        Raises:
            RegionExistsError: the name is taken.
            OSError: ENOSPC, /dev/shm is too full; ENOMEM, EPERM, the limit on
                locked memory is too low.
            ValueError, TypeError: an argument makes no sense.
        """
        name = segment.check_name(name)
        segment.check_mode(mode)
        check_policy(on_owner_death)
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
        return cls._made(fd, mapping[-1], plan, on_owner_death, created=True)

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
        on_owner_death: OnOwnerDeath = "raise",
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
            on_owner_death: as for `create`. Each attachment has its own; a readonly one
                has no function.

        Raises:
            RegionNotFoundError: there is no such region.
            RegionSizeError: it is smaller than asked for.
            RegionFormatError: it is no region, or not of that dtype or layout.
            PermissionError: its mode or its owner forbids it.
            OSError: ENOSPC, ENOMEM, EPERM as for `create`.
            ValueError, TypeError: an argument makes no sense.
        """
        return cls._attach(
            name,
            length,
            dtype,
            layout,
            readonly,
            owner,
            lock_memory,
            check_policy(on_owner_death, readonly=readonly),
            reserve=True,
        )

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
        on_owner_death: OnOwnerDeath = "raise",
    ) -> "Self":
        """Attach to a region, or create it if there is none; `created` tells which.

        Arguments and errors are those of `create` and `attach`. `mode` counts only
        for a new region. `layout` None creates a managed one and takes any.
        """
        policy = check_policy(on_owner_death)
        for _ in range(OPEN_TRIES):
            try:
                return cls._attach(
                    name, length, dtype, layout, False, owner, lock_memory, policy, reserve
                )
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
                    on_owner_death=policy,
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
        on_owner_death: OnOwnerDeath,
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
        return cls._made(fd, mapping, plan, on_owner_death, created=False)

    @classmethod
    def _made(
        cls, fd: int, mapping: Mapping, plan: Plan, on_owner_death: OnOwnerDeath, *, created: bool
    ) -> "Self":
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
        opener = Opener(fd, self._identity, mapping, self._control, view)
        self._have_locks(opener, on_owner_death)
        _open_regions.add(self)
        return self

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
        self._end_locks()
        self._control = None
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

        A transaction adds 2 at its end, if it changed anything, and is odd only then.
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


def _map(fd: int, plan: Plan, name: str, *, readonly: bool, lock_memory: bool) -> Mapping:
    mapping = Mapping(fd, plan.size, readonly=readonly, name=name)
    if lock_memory:
        mapping.lock_memory()
    return mapping


_open_regions: WeakSet[Region] = WeakSet()


def _after_fork_in_child() -> None:
    for region in list(_open_regions):
        region._start_afresh()


os.register_at_fork(after_in_child=_after_fork_in_child)
