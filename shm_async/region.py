"""Region: a block of shared memory that has a name. How it is locked is in locks.py."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from . import _native, attachment, elements
from ._native import SHRUNK
from .attachment import Attachment
from .elements import DTypeLike
from .errors import RegionExistsError, RegionNotFoundError
from .filelock import failure
from .holders import Holders
from .layouts import Layout
from .recovery import OnOwnerDeath
from .resize import Resizable
from .statistics import Ledger
from .terms import IfUnlinked, Owner, Terms, Unlink

if TYPE_CHECKING:
    import numpy
    from typing_extensions import Self

__all__ = ["Region"]

#: How often `open` attaches and creates in turn: each failure means that somebody
#: created or unlinked the name in between.
OPEN_TRIES = 100


class Region(Resizable, Holders):
    """A named block of shared memory, mapped into this process, and its lock.

    Made by `create`, `attach` or `open`. Any number of tasks, threads and event
    loops may use it. End it with `close` or a ``with`` block.

    After a fork the child's copy works and holds nothing; nothing that the child
    does reaches the parent's locks.

    Pickling one, as multiprocessing does with arguments, takes its name along: unpickling
    attaches, and the new region is for its receiver to close.
    """

    __slots__ = ("__weakref__", "_closing", "_created", "_maker")

    _created: bool
    _maker: int  # the pid of who created or attached: a forked child has not
    _closing: Lock  # held for good once the region is closed

    # ---- making one ------------------------------------------------------------

    def __init__(self) -> None:
        raise TypeError("use Region.create, Region.attach or Region.open")

    @classmethod
    def create(
        cls,
        name: str | int | None,
        length: int | None = None,
        *,
        dtype: DTypeLike = "uint8",
        shape: Sequence[int] | None = None,
        mode: int = 0o600,
        layout: Layout = "managed",
        reserve: bool = True,
        lock_memory: bool = False,
        on_owner_death: OnOwnerDeath = "raise",
        unlink: Unlink = "never",
        if_unlinked: IfUnlinked = "ignore",
        follow: bool = False,
    ) -> "Self":
        """Create a region that must not exist yet. Its data is zero.

        Blocks while the kernel reserves the memory. Nobody ever sees the region
        half-made, and nothing is left of it when this fails.

        Args:
            name: a str is its name in /dev/shm, with or without a leading slash; an int the
                key of a System V segment; None makes such a one with a fresh key, see `key`.
            length: number of elements.
            dtype: element type: int8 to int64, uint8 to uint64, float16 to float64, bool,
                uint8_clamped; or JavaScript's, struct's or NumPy's name of it.
            shape: elements in each of up to 6 dimensions, instead of `length`.
            mode: permission bits; the umask has no say.
            layout: "managed" (default) adds a control page behind the data; "raw" is
                the data alone, for programs that expect just that; "sized" has 8 bytes
                before the data that say how many bytes it has, for shm-typed-array.
            reserve: take the memory now. False leaves it to the first store,
                which is SIGBUS if /dev/shm is full by then.
            lock_memory: keep touched pages in memory, out of swap (mlock2).
            on_owner_death: what happens when one of our locks is granted and the last
                writer died inside. "raise": OwnerDiedError. "ignore": nothing, for data
                of which every store stands alone. A function: it is called with a hold of
                the write lock and puts the data right; then the region is sound, and
                the lock is asked for again. It is called in the thread, or the event
                loop, that found the death; what it raises goes to who wanted the lock. After
                20 repairs that did not last OwnerDiedError is raised all the same.
                A raw or sized region has no place for a writer's mark, and a program that
                uses flock alone makes none: of their deaths nobody is told.
            unlink: who removes the name, or the key, by `close` (a garbage collector, a crash or
                an exit without `close` never does; then see `prune`). "never". "creator": the
                process that created it, by the object that `create` returned. "last": whoever
                finds that no other attachment is left. Programs that do not use this package
                do not count there, but for System V, where the kernel counts.
            if_unlinked: what locks and snapshots do when the name, or the key, leads to this
                region no more, so that others may have made a second one. "ignore": nothing;
                `linked` tells. "raise": RegionNotFoundError, nothing is held; a free lock
                costs a quarter more, as the kernel is asked each time.
            follow: go over to the new one when somebody has resized the region; False: locks and
                snapshots raise RegionReplacedError.

        Raises:
            RegionExistsError: the name, or the key, is taken.
            OSError: ENOSPC, /dev/shm is too full; ENOMEM, EPERM, the limit on
                locked memory is too low; EINVAL, ENOSPC, the limits of System V segments.
            ValueError, TypeError: an argument makes no sense.
        """
        terms = Terms(
            lock_memory=lock_memory,
            on_owner_death=on_owner_death,
            unlink=unlink,
            if_unlinked=if_unlinked,
            follow=follow,
        )
        made = attachment.create(
            name,
            _check_given(elements.check_shape(length, shape)),
            dtype=dtype,
            layout=layout,
            mode=mode,
            reserve=reserve,
            terms=terms,
        )
        return cls._made(made, terms, created=True)

    @classmethod
    def attach(
        cls,
        name: str | int,
        length: int | None = None,
        *,
        dtype: DTypeLike | None = None,
        shape: Sequence[int] | None = None,
        layout: Layout | None = None,
        readonly: bool = False,
        owner: Owner = "me",
        lock_memory: bool = False,
        on_owner_death: OnOwnerDeath = "raise",
        unlink: Unlink = "never",
        if_unlinked: IfUnlinked = "ignore",
        follow: bool = False,
    ) -> "Self":
        """Attach to a region that exists.

        May block: up to a second when a creator is at work that cannot create in
        one step, and while the kernel reserves memory that its creator did not.

        Args:
            name: its name in /dev/shm, with or without a leading slash, or its System V key.
            length: number of elements to use, from the first on; None means all.
            dtype: element type; None means the region's own, uint8 for one not managed.
            shape: the shape it must have; one that is not managed gets it here.
            layout: None recognises "managed" and takes all else for "raw"; "sized" must be
                asked for. "raw" shows a managed region's bytes as they are.
            readonly: ask for read permission alone: no write locks.
            owner: "me" refuses what belongs to another user than you or root,
                "any" trusts it.
            lock_memory: keep touched pages in memory, out of swap (mlock2).
            on_owner_death: as for `create`. Each attachment has its own; a readonly one
                has no function.
            unlink: as for `create`. Each attachment has its own policy.
            if_unlinked: as for `create`.
            follow: as for `create`.

        Raises:
            RegionNotFoundError: there is no such region.
            RegionSizeError: it is smaller than asked for.
            RegionFormatError: it is no region, or not of that dtype, shape or layout.
            PermissionError: its mode or its owner forbids it.
            OSError: ENOSPC, ENOMEM, EPERM as for `create`.
            ValueError, TypeError: an argument makes no sense.
        """
        terms = Terms(
            readonly=readonly,
            owner=owner,
            lock_memory=lock_memory,
            on_owner_death=on_owner_death,
            unlink=unlink,
            if_unlinked=if_unlinked,
            follow=follow,
        )
        wanted = elements.check_shape(length, shape)
        found = attachment.attach(
            name, wanted, dtype=dtype, layout=layout, reserve=True, terms=terms
        )
        return cls._made(found, terms, created=False)

    @classmethod
    def open(
        cls,
        name: str | int,
        length: int | None = None,
        *,
        dtype: DTypeLike = "uint8",
        shape: Sequence[int] | None = None,
        mode: int = 0o600,
        layout: Layout | None = None,
        reserve: bool = True,
        lock_memory: bool = False,
        owner: Owner = "me",
        on_owner_death: OnOwnerDeath = "raise",
        unlink: Unlink = "never",
        if_unlinked: IfUnlinked = "ignore",
        follow: bool = False,
    ) -> "Self":
        """Attach to a region, or create it if there is none; `created` tells which.

        Arguments and errors are those of `create` and `attach`. `mode` counts only
        for a new region. `layout` None creates a managed one and takes any.
        """
        wanted = _check_given(elements.check_shape(length, shape))
        terms = Terms(
            owner=owner,
            lock_memory=lock_memory,
            on_owner_death=on_owner_death,
            unlink=unlink,
            if_unlinked=if_unlinked,
            follow=follow,
        )
        for _ in range(OPEN_TRIES):
            try:
                found = attachment.attach(
                    name, wanted, dtype=dtype, layout=layout, reserve=reserve, terms=terms
                )
                return cls._made(found, terms, created=False)
            except RegionNotFoundError:
                pass
            try:
                made = attachment.create(
                    name,
                    wanted,
                    dtype=dtype,
                    layout=layout or "managed",
                    mode=mode,
                    reserve=reserve,
                    terms=terms,
                )
                return cls._made(made, terms, created=True)
            except RegionExistsError as error:
                last = error
        raise last

    @classmethod
    def _made(cls, found: Attachment, terms: Terms, *, created: bool) -> "Self":
        self = cls.__new__(cls)
        self._name = found.segment.name
        self._terms = terms
        self._created = created
        self._maker = os.getpid()
        self._moving = Lock()
        self._use(found, Ledger())
        self._closing = Lock()
        _open_regions.add(self)
        return self

    # ---- end -------------------------------------------------------------------

    def close(self, *, discard: bool = False) -> None:
        """Let go of the region; it goes on existing. Closing twice is fine. Never blocks.

        Tasks and threads that wait for its lock, or for a change, get RegionClosedError,
        threads within a tenth of a second. Who holds a lock keeps it until released. The
        memory is given back as soon as no view of it is left.

        Args:
            discard: give the memory back at once. Views that are left, those of locks that are
                still held, too, are not of the region any more: they turn into private zeros.

        Raises:
            PermissionError: `unlink` asks to remove the name, and it is another user's. All the
                rest is done.
        """
        if not self._closing.acquire(blocking=False):
            return
        try:
            self._let_go(discard=discard)
            self._unlink_if_asked()
        finally:
            self._segment.close()

    def _let_go(self, *, discard: bool) -> None:
        mapping = self._usable().mapping  # it goes with the last view
        _open_regions.discard(self)
        self._end_locks()
        if discard:
            mapping.discard()

    def _unlink_if_asked(self) -> None:
        policy = self._terms.unlink
        if policy == "creator":
            asked = self._created and self._maker == os.getpid()
        else:
            asked = policy == "last" and self._segment.is_last()
        if asked:
            with suppress(RegionNotFoundError):  # somebody was faster
                self.unlink()

    def unlink(self) -> None:
        """Remove the name, or the key. Who is attached stays so; a new region may take it.

        Works on a closed region, too. A System V segment itself goes with its last attachment.

        Raises:
            RegionNotFoundError: the name is gone, or leads to another object.
            PermissionError: only the owner may.
        """
        self._segment.unlink()

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

    # ---- pickling ---------------------------------------------------------------

    def __reduce__(self) -> tuple[Callable[..., "Region"], tuple[object, ...]]:
        """Pickle as what it takes to attach again: nothing of the data, and no lock.

        Unpickling attaches: it raises what `attach` raises, RegionNotFoundError if the
        name is gone by then, and its receiver closes what it gets.

        Raises:
            RegionClosedError: it is closed.
        """
        self._usable()
        address = self._name if self.key is None else self.key
        return _attach_again, (type(self), address, self._how_to_attach())

    def _how_to_attach(self) -> dict[str, Any]:
        """Arguments for `attach` that make another one like this."""
        return {
            "dtype": self.dtype,
            "shape": self.shape,
            "layout": self.layout,
            **self._terms.as_arguments(),
        }

    def __copy__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be copied: attach to it by name, or use snapshot() for its data"
        )

    def __deepcopy__(self, _memo: object) -> NoReturn:
        self.__copy__()

    def __del__(self) -> None:
        closing = getattr(self, "_closing", None)
        if closing is not None and not closing.locked() and not sys.is_finalizing():
            message = f"{self!r} was never closed"
            closing.acquire()
            self._let_go(discard=False)  # and never unlink
            self._segment.close()
            warnings.warn(message, ResourceWarning, 2)

    # ---- memory ----------------------------------------------------------------

    @property
    def buffer(self) -> memoryview:
        """The data, without a lock, as a new typed memoryview; read-only if the region is.

        For single loads and stores that need no lock, or under a lock held elsewhere.
        """
        return self._usable().writable[:]

    def numpy(self) -> "numpy.ndarray[Any, Any]":
        """The data, without a lock, as a NumPy array of its shape: no copy.

        It keeps the memory mapped, also after `close`; read-only if the region is. What is stored
        through it is cut off, not clamped, in a uint8_clamped region, too. Never blocks. Needs
        the extra ``shm_async[numpy]``.

        Raises:
            RegionClosedError. ImportError: NumPy is not installed.
        """
        return elements.numpy_array(self._usable().writable)

    # ---- facts -----------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name, without a leading slash; a System V segment's is its key, in hex."""
        return self._name

    @property
    def key(self) -> int | None:
        """The key of its System V segment; None if it has a name instead."""
        return self._segment.key

    @property
    def id(self) -> int | None:
        """The id (shmid) of its System V segment, which tools such as ipcs show; or None."""
        return self._segment.id

    @property
    def attachments(self) -> int | None:
        """How often its System V segment is attached, in all processes (shm_nattch); or None.

        Raises:
            RegionNotFoundError: it was removed and nobody, this region included, is attached.
        """
        return self._segment.attachments()

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension."""
        return self._plan.shape

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
        """Where the data lies: "managed", "raw" or "sized"."""
        return self._plan.layout

    @property
    def created(self) -> bool:
        """Whether this object created the region, rather than attached to it."""
        return self._created

    @property
    def readonly(self) -> bool:
        """Whether it was attached for reading only."""
        return self._terms.readonly

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
        if opener.control is None:
            return None
        if not opener.segment.whole(opener.mapping.size):
            raise failure(SHRUNK, self._name)
        return _native.control_generation(opener.control)

    @property
    def linked(self) -> bool:
        """Whether the name, or the key, still leads to this very segment."""
        self._usable()
        return self._segment.linked()

    def __len__(self) -> int:
        """Number of elements."""
        return self._plan.length

    def __repr__(self) -> str:
        plan = self._plan
        states = [plan.layout, "closed" if self.closed else "open"]
        if self._terms.readonly:
            states.insert(1, "readonly")
        size = " x ".join(map(str, plan.shape))
        return f"<Region {self._name!r}: {size} x {plan.dtype}, {', '.join(states)}>"


def _check_given(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is None:
        raise TypeError("how many elements? give length or shape")
    return shape


def _attach_again(kind: type[Region], name: str | int, how: dict[str, Any]) -> Region:
    """What a pickled region becomes. Pickles name this function: its name is to stay."""
    return kind.attach(name, **how)


_open_regions: WeakSet[Region] = WeakSet()


def _after_fork_in_child() -> None:
    for region in list(_open_regions):
        region._start_afresh()


os.register_at_fork(after_in_child=_after_fork_in_child)
