"""Region: a block of shared memory that has a name. This file has its construction.

A Region composes three parts: an Attachment (the segment, its mapping and its layout), a
LockTable (the holders and waiters) and Watchers (the tasks that wait for a change). Its other
methods are in _lifetime.py, _surface.py and _facts.py.
"""

import os
from collections.abc import Callable, Sequence
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakMethod

from ._lifetime import Lifetime, opener_of, remember
from ._lock.recovery import OnOwnerDeath
from ._lock.statistics import Ledger
from ._lock.table import LockTable
from ._memory import attachment, elements, ownership, temporary
from ._memory.attachment import Attachment
from ._memory.elements import DTypeLike
from ._memory.layouts import Layout
from ._terms import IfUnlinked, Owner, Terms, Unlink
from ._watch.changes import Watchers
from .errors import RegionExistsError, RegionNotFoundError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Region"]

#: Attempts of `open` to attach and to create in turn: each failure means that another process
#: created or unlinked the name in between.
OPEN_TRIES = 100

Step = TypeVar("Step", bound=Callable[..., None])


class Region(Lifetime):
    """A named block of shared memory, mapped into this process, and its lock.

    Make it by `create`, `attach` or `open`. Any number of tasks, threads and event
    loops may use it. End it with `close` or a ``with`` block.

    After a fork the child's copy works and holds nothing. The child cannot affect the
    parent's locks.

    A region equals only itself. Two attachments of one object are two regions: each has its
    own terms, is closed by itself, and may follow a resize to another object. They are of one
    object if their `name` is the same and both are `linked`.

    A pickled region, such as an argument of multiprocessing, contains its name: unpickling
    attaches to it, and the receiver closes the new region.
    """

    __module__ = "shm_async"

    __slots__ = ()

    # False: dropping a region ends it at once. A hold that is kept for the next lock refers to
    # its region, so only the garbage collector would find the two.
    _keeps_spares: ClassVar[bool] = True

    # ---- making one ------------------------------------------------------------

    @classmethod
    def create(
        cls,
        name: str | int | None,
        length: int | None = None,
        *,
        dtype: DTypeLike = "uint8",
        shape: Sequence[int] | None = None,
        mode: int = 0o600,
        user: int | str | None = None,
        group: int | str | None = None,
        layout: Layout = "managed",
        reserve: bool = True,
        lock_memory: bool = False,
        on_owner_death: OnOwnerDeath = "raise",
        unlink: Unlink = "never",
        if_unlinked: IfUnlinked = "ignore",
        follow: bool = False,
    ) -> "Self":
        """Create a region that must not exist yet. Its data is zero.

        Blocks while the kernel reserves the memory. No process ever sees the region
        half-made, and a failure leaves nothing behind.

        Args:
            name: a str is its name in /dev/shm, with or without a leading slash; an int is the
                key of a System V segment; None makes a segment with an unused key, see `key`.
            length: number of elements.
            dtype: element type: int8 to int64, uint8 to uint64, float16 to float64, bool,
                uint8_clamped; or JavaScript's, struct's or NumPy's name of it.
            shape: elements in each of up to 6 dimensions, instead of `length`.
            mode: permission bits; the umask does not apply.
            user: its owner, a name or an id; None: this user. Only root may give it away. A
                process that begins as root and becomes another user, as servers do, names that
                user here: the first lock of each thread, event loop or worker opens the object
                again, with the rights that are left.
            group: its group, a name or an id; `mode` may give it access: 0o660.
            layout: "managed" (default) adds a control page behind the data; "raw" is
                the data alone, for programs that expect just that; "sized" has the number of
                bytes in 8 bytes before the data, for shm-typed-array.
            reserve: take the memory now. False leaves it to the first store,
                which raises SIGBUS if /dev/shm is full then.
            lock_memory: keep touched pages in memory, out of swap (mlock2).
            on_owner_death: the reaction when a lock is granted and the last writer died during
                its write. "raise": OwnerDiedError. "ignore": none, for data of which every store
                is independent. A function: it is called with a hold of the write lock and
                repairs the data; then the region is sound, and the lock is acquired again. It
                runs in the thread, or the event loop, that found the death. An exception in it
                goes to the acquirer. After 20 repairs that did not last: OwnerDiedError.
                A death is not noticed in a raw or sized region, which has no place for a
                writer's mark, or if the writer used flock alone.
            unlink: the attachment whose `close` removes the name, or the key. A garbage
                collection, a crash or an exit without `close` never does: see `prune`. "never".
                "creator": the object that `create` returned, in that process. "last": an
                attachment that finds no other one. It does not see programs that do not use this
                package, except for System V, where the kernel counts.
            if_unlinked: the reaction of locks and snapshots when the name, or the key, leads to
                this region no more, so that a second one may exist. "ignore": none; see `linked`.
                "raise": RegionNotFoundError, nothing is held; a free lock costs a quarter more,
                as it asks the kernel each time.
            follow: attach to the new object when another process has resized the region; False:
                locks and snapshots raise RegionReplacedError.

        Raises:
            RegionExistsError: the name, or the key, is taken.
            PermissionError: this user may not give it to that user or group.
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
            elements.required_shape(length, shape),
            dtype=dtype,
            layout=layout,
            mode=mode,
            reserve=reserve,
            terms=terms,
            owners=ownership.resolve(user, group),
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

        May block: up to a second while a creator that cannot create in one step is at
        work, and while the kernel reserves memory that its creator did not.

        Args:
            name: its name in /dev/shm, with or without a leading slash, or its System V key.
            length: number of elements to use, from the first on; None means all.
            dtype: element type; None means the region's own, uint8 for one not managed.
            shape: the shape it must have; a region that is not managed gets it here.
            layout: None recognises "managed" and takes all others for "raw"; name "sized"
                explicitly. "raw" shows a managed region's bytes as they are.
            readonly: ask for read permission alone: no write locks.
            owner: "me" refuses a region of another user than this one or root, "any" trusts
                every user, and a user's id trusts that user, too.
            lock_memory: keep touched pages in memory, out of swap (mlock2).
            on_owner_death: as for `create`. Each attachment has its own; a readonly one
                has no function.
            unlink: as for `create`. Each attachment has its own policy.
            if_unlinked: as for `create`.
            follow: as for `create`.

        Raises:
            RegionNotFoundError: there is no such region.
            RegionSizeError: it is smaller than requested.
            RegionFormatError: it is not a region, or not of that dtype, shape or layout.
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
        user: int | str | None = None,
        group: int | str | None = None,
        layout: Layout | None = None,
        reserve: bool = True,
        lock_memory: bool = False,
        owner: Owner = "me",
        on_owner_death: OnOwnerDeath = "raise",
        unlink: Unlink = "never",
        if_unlinked: IfUnlinked = "ignore",
        follow: bool = False,
    ) -> "Self":
        """Attach to a region, or create it if there is none; `created` tells whether it did.

        Blocks while the kernel reserves the memory, and up to a second if its creator is at work.
        `create` and `attach` explain the options in detail.

        Args:
            name: a str is its name in /dev/shm, an int its System V key.
            length: number of elements. A region that exists may have more; the rest is unused.
            dtype: element type, the same in every process: "uint8", "float64", a NumPy name.
            shape: elements in each of up to 6 dimensions, instead of `length`.
            mode: permission bits of a new region.
            user: owner of a new region, a name or an id; None: this user. An existing region
                of that owner is trusted, too.
            group: group of a new region, a name or an id; None: this user's.
            layout: None creates a "managed" region and accepts any; "raw" is the data alone,
                "sized" has its byte count in front.
            reserve: take the memory now; False leaves it to the first store.
            lock_memory: keep touched pages in memory, out of swap (mlock2).
            owner: "me" refuses a region of another user than this one or root, "any" trusts
                every user, a user's id trusts that user.
            on_owner_death: "raise" OwnerDiedError when the last writer died during its write,
                "ignore" the death, or a function that repairs the data under the write lock.
            unlink: the attachment that removes the name at `close`: "never", "creator", "last".
            if_unlinked: "raise" RegionNotFoundError at a lock if the name is gone, or "ignore" it.
            follow: attach to the new object when another process has resized this region.

        Raises:
            RegionSizeError: the region that exists is smaller than requested.
            RegionFormatError: it is not a region, or not of that dtype, shape or layout.
            RegionExistsError: others created and removed the name too often meanwhile.
            PermissionError: its mode or its owner forbids it; or this user may not give it to
                `user`.
            OSError: ENOSPC, ENOMEM, EPERM, EINVAL as for `create`.
            ValueError, TypeError: an argument makes no sense.
        """
        wanted = elements.required_shape(length, shape)
        given = ownership.resolve(user, group)
        terms = Terms(
            owner=given.uid if owner == "me" and given.uid >= 0 else owner,
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
                    owners=given,
                )
                return cls._made(made, terms, created=True)
            except RegionExistsError as error:
                last = error
        raise last

    @classmethod
    def temporary(
        cls,
        length: int | None = None,
        *,
        dtype: DTypeLike = "uint8",
        shape: Sequence[int] | None = None,
        layout: Layout = "managed",
        reserve: bool = True,
        on_owner_death: OnOwnerDeath = "raise",
        follow: bool = False,
    ) -> "Self":
        """Create a region with an unused name, for a test or a script, and remove it at the end.

        `close`, or the end of its ``with`` block, removes the name; else the exit of the
        interpreter that created it does. Until then it can be pickled, or attached to by `name`.
        Attachments of other processes, forked children included, never remove it, and stay
        valid after its removal.

        A process that is killed, or ends by ``os._exit`` (as a forked child of multiprocessing
        does), leaves the name: ``shm_async.prune("shm_async.temporary.*", dry_run=False)``
        removes what such processes left.

        Blocks while the kernel reserves the memory. Arguments and errors are those of `create`.
        """
        name = temporary.fresh_name()
        try:
            return cls.create(
                name,
                length,
                dtype=dtype,
                shape=shape,
                layout=layout,
                reserve=reserve,
                on_owner_death=on_owner_death,
                unlink="creator",
                follow=follow,
            )
        except BaseException:
            temporary.forget(name)
            raise

    @classmethod
    def _made(cls, found: Attachment, terms: Terms, *, created: bool) -> "Self":
        opener = opener_of(found, terms, Ledger(found.segment.name))
        self = cls.__new__(cls)
        self._name = found.segment.name
        self._terms = terms
        self._created = created
        self._maker = os.getpid()
        self._attachment = found
        # weak: a region without references ends at once, and not only when a garbage collector
        # finds the reference cycle
        follow, follow_name = WeakMethod(self._follow), WeakMethod(self._follow_name)
        self._table = LockTable(
            self._name,
            terms,
            opener,
            lambda error: _alive(follow)(error),
            keeps_spares=cls._keeps_spares,
        )
        self._watchers = Watchers(self._table, lambda: _alive(follow_name)())
        self._moving, self._swapping = Lock(), RLock()
        self._closing = Lock()
        remember(self)
        return self

    # ---- pickling ---------------------------------------------------------------

    def __reduce__(self) -> tuple[Callable[..., "Region"], tuple[object, ...]]:
        """Pickle as the arguments of `attach`, without the data and without a lock.

        Unpickling attaches: it raises the errors of `attach`, RegionNotFoundError if the name
        is gone. The receiver closes the new region.

        Raises:
            RegionClosedError: it is closed.
        """
        self._table.usable()
        address = self._name if self.key is None else self.key
        how = {"dtype": self.dtype, "shape": self.shape, "layout": self.layout}
        return _attach_again, (type(self), address, {**how, **self._terms.as_arguments()})


def _alive(method: "WeakMethod[Step]") -> Step:
    """Return a method of the region, which a hold or a waiting task keeps alive."""
    found = method()
    assert found is not None
    return found


def _attach_again(kind: type[Region], name: str | int, how: dict[str, Any]) -> Region:
    """Attach for an unpickled region. Pickles name this function, so its name must not change."""
    return kind.attach(name, **how)
