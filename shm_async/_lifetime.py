"""Replacing a region's segment by another, and closing the region."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock, RLock
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakSet

from . import _resize
from ._failures import closed
from ._lock.ofd import Opener
from ._lock.statistics import Ledger
from ._memory import temporary
from ._memory.attachment import Attachment
from ._surface import Surface
from ._terms import Terms
from .errors import RegionNotFoundError, RegionReplacedError, ShmError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Lifetime", "opener_of", "remember"]


class Lifetime(Surface):
    """The methods that replace a region's segment, and end the region."""

    __slots__ = ("__weakref__", "_closing", "_maker", "_moving", "_swapping")

    _maker: int  # the pid of the process that created or attached: not that of a forked child
    _closing: Lock  # held for good once the region is closed
    _moving: Lock  # held by the thread that replaces the attachment
    _swapping: RLock  # for a moment, by the thread that puts a replacement in place, or closes

    # ---- another segment in its place ----------------------------------------------

    def resize(
        self,
        length: int | None = None,
        *,
        shape: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Change the number of elements. New elements are zero; elements beyond the end are lost.

        It takes the write lock, makes a new object of that size, copies the data, and gives the
        object the region's name. That is one step: a process that attaches finds the old object
        or the new one. All other attachments keep the old memory. Their next lock or snapshot
        raises RegionReplacedError, or attaches to the new object with ``follow=True``. `buffer`,
        and views made from it, are stale from then on.

        Blocks the thread: for the lock, while the kernel reserves the memory, and for a memcpy. A
        process that is killed while it resizes leaves the region as it was, or resized. All
        waiters for the lock lose their places, so do not resize without pause.

        Args:
            length: number of elements.
            shape: elements in each dimension, instead of `length`. Only the first one may change.
            timeout: seconds to wait for the lock (LockTimeoutError).

        Raises:
            ValueError: it is not managed, or of System V, which cannot be replaced; or the shape
                differs in more than its first dimension.
            TypeError: not a number.
            PermissionError: it is another user's, or was attached with ``readonly=True``.
            OSError: ENOSPC, ENOMEM.
            RegionNotFoundError: its name is gone. And as for `write_lock`.
        """
        wanted = self._check_wanted(length, shape)
        with self._table.late_hold(timeout, self):
            self._replace(wanted)

    async def resize_async(
        self, length: int | None = None, *, shape: Sequence[int] | None = None
    ) -> None:
        """Resize as `resize` does, but wait for the lock in the event loop; cancellable there.

        The rest blocks the loop: reserving the memory, and a memcpy. Arguments and errors are those
        of `resize`.
        """
        wanted = self._check_wanted(length, shape)
        async with self._table.late_hold(None, self):
            self._replace(wanted)

    def _check_wanted(self, length: int | None, shape: Sequence[int] | None) -> tuple[int, ...]:
        self._table.check_writable()
        return _resize.check_wanted(self._attachment, length, shape)

    def _replace(self, shape: tuple[int, ...]) -> None:
        with self._moving, self._unless_closed():
            self._move_to(_resize.replacement(self._now(), shape, self._terms))

    def _follow(self, error: RegionReplacedError) -> None:
        """Attach to the region's replacement, unless another thread has done so just now."""
        with self._moving, self._unless_closed():
            self._move_to(_resize.successor(self._now(), self._terms, error))

    def _follow_name(self) -> None:
        """Attach to the new region that has the name, unless another thread has just done so.

        Raises:
            RegionReplacedError: without ``follow=True``.
        """
        with self._moving, self._unless_closed():
            new, related = _resize.with_our_name(self._now(), self._terms)
            if not related:
                self._watchers.begin_life()
            self._move_to(new)

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Have an error because another thread has closed the region say so."""
        try:
            yield
        except (OSError, ShmError):
            self._table.usable()
            raise

    def _now(self) -> Attachment:
        now = self._attachment  # read first: if usable() does not raise, it has its memory
        self._table.usable()
        return now

    def _move_to(self, new: Attachment | None) -> None:
        """Use another segment from now on. Tell the waiters for the lock of the old one."""
        if new is None:
            return
        opener = opener_of(new, self._terms, self._table.ledger)
        with self._swapping:
            if self._closing.locked():  # closed meanwhile by another thread
                new.segment.close()
                raise closed(self._table.name)
            old, self._attachment = self._attachment, new
            self._table.usable().ahead.clear()
            self._table.move_to(opener)
            self._watchers.move_on()
            old.segment.close()

    def _start_afresh(self) -> None:
        """Begin again in a forked child, which holds nothing."""
        self._moving, self._swapping = Lock(), RLock()
        self._attachment.segment.renew(self._attachment.mapping)
        self._table.usable().open_ahead()
        self._table.start_afresh()
        self._watchers.start_afresh()

    # ---- end -------------------------------------------------------------------

    def close(self, *, discard: bool = False) -> None:
        """Detach from the region, which goes on existing. Closing twice is fine. Never blocks.

        Tasks and threads that wait for its lock, or for a change, get RegionClosedError,
        threads within a tenth of a second. A holder keeps its lock until it releases it. The
        memory is unmapped as soon as no view of it is left.

        Args:
            discard: unmap the memory at once. All remaining views, also those of locks that are
                still held, no longer show the region: they turn into private zeros.

        Raises:
            PermissionError: the `unlink` policy asks to remove the name of another user's
                region. The region is closed all the same.
        """
        if not self._closing.acquire(blocking=False):
            return
        try:
            with self._swapping:
                self._let_go(discard=discard)
            self._unlink_if_asked()
        finally:
            self._attachment.segment.close()

    def _let_go(self, *, discard: bool) -> None:
        self._table.usable().ahead.clear()
        _open_regions.discard(self)
        self._table.close()
        self._watchers.close()
        mapping = self._attachment.mapping  # unmapped with the last view
        self._attachment = self._attachment.without_memory()
        if discard:
            mapping.discard()

    def _unlink_if_asked(self) -> None:
        policy = self._terms.unlink
        if policy == "creator":
            asked = self._created and self._maker == os.getpid()
        else:
            asked = policy == "last" and self._attachment.segment.is_last()
        if asked:
            with suppress(RegionNotFoundError):  # another process was faster
                self.unlink()
        if asked and self._created:
            temporary.remove(self._name)

    def unlink(self) -> None:
        """Remove the name, or the key. Attachments stay valid; a new region may take the name.

        Never blocks; for a System V segment up to a second, if another process is removing it.
        Works on a closed region, too. A System V segment itself ends with its last attachment.

        Raises:
            RegionNotFoundError: the name is gone, or leads to another object.
            PermissionError: only the owner may remove it.
        """
        self._attachment.segment.unlink()

    async def aclose(self) -> None:
        """Close as `close` does, for code that also serves regions beyond this host.

        Never waits, so it cannot be cancelled. Errors are those of `close`.
        """
        self.close()

    async def unlink_async(self) -> None:
        """Unlink as `unlink` does, for code that also serves regions beyond this host.

        Blocks as `unlink` does, and cannot be cancelled. Errors are those of `unlink`.
        """
        self.unlink()

    def __enter__(self) -> "Self":
        self._table.usable()
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
            self._attachment.segment.close()
            warnings.warn(message, ResourceWarning, 2)


def opener_of(found: Attachment, terms: Terms, ledger: Ledger) -> Opener:
    """Return an opener of locks on that attachment. An error closes the attachment."""
    try:
        return Opener(
            found.segment,
            found.mapping,
            found.control(),
            found.view(),
            ledger,
            ignores_death=terms.on_owner_death == "ignore",
            linked=terms.if_unlinked == "raise",
        )
    except BaseException:
        found.segment.close()
        raise


_open_regions: WeakSet[Lifetime] = WeakSet()


def remember(region: Lifetime) -> None:
    """Have the region begin again in a forked child, for as long as it is open."""
    _open_regions.add(region)


def _after_fork_in_child() -> None:
    for region in list(_open_regions):
        region._start_afresh()  # noqa: SLF001  # a step of our own class


os.register_at_fork(after_in_child=_after_fork_in_child)
