"""Transactions: write to a private copy, which goes in at once, or not at all."""

import os
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from ._native import MARK_LATER, lock_commit
from .elements import like, plain
from .filelock import FORKED, failure
from .guards import SpecialHold

if TYPE_CHECKING:
    from .locks import Locks

__all__ = ["Transaction"]


class LateHold(SpecialHold):
    """The write lock, with the generation odd for no longer than a commit takes."""

    __slots__ = ()
    manner = MARK_LATER


class Transaction:
    """The write lock and a private copy of the data, made by `Region.transaction`.

    ``async with transaction as view`` (waits in the event loop, cancellable) or ``with
    transaction as view`` (blocks the thread) yields the copy: a writable memoryview of the
    region's element type, valid in the block. Its clean end copies back what has changed,
    and releases the lock.

    An exception, a cancellation, or the death of the process in the block leaves the region
    as it was: nobody needs to be told, and nobody is. A process that is killed while it
    copies back leaves a half-written region, and the next one is told (OwnerDiedError); that
    takes as long as a memcpy from the first to the last byte that differ.

    Copying in and out blocks the event loop, or the thread, for a memcpy of the region each.
    A transaction can be used again, but not twice at once. A forked child has none: leaving
    the block there does nothing.
    """

    __slots__ = ("_copy", "_hold", "_region", "_view")

    # Invariant: in the block _view is a view of all of _copy; else both are None.

    def __init__(self, region: "Locks", timeout: float | None, fast: bool) -> None:
        self._region = region
        self._hold = LateHold(region, timeout, fast)
        self._copy: bytearray | None = None
        self._view: memoryview | None = None

    async def __aenter__(self) -> memoryview:
        return self._begin(await self._hold.__aenter__())

    def __enter__(self) -> memoryview:
        return self._begin(self._hold.__enter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(clean=kind is None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(clean=kind is None)

    def _begin(self, whole: memoryview) -> memoryview:
        try:
            self._copy = bytearray(plain(whole))
            view = self._view = like(whole, memoryview(self._copy))
        except BaseException:
            self._end(clean=False)
            raise
        return view

    def _end(self, *, clean: bool) -> None:
        copy, self._copy = self._copy, None
        view, self._view = self._view, None
        try:
            if view is not None:
                _release(view)
            if clean and copy is not None:
                self._commit(copy)
        finally:
            self._hold._leave()

    def _commit(self, copy: bytearray) -> None:
        hold = self._hold
        assert hold._at is not None
        lock = hold._at.handle
        code = lock_commit(lock, plain(hold.view), copy)
        if code == FORKED and lock.pid != os.getpid():
            return  # a child's: the parent is still at it
        if code:
            raise failure(code, self._region._name, lock)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: ask its region for another")

    def __repr__(self) -> str:
        return f"<Transaction of {self._region._name!r}, {self._hold._state()}>"


def _release(view: memoryview) -> None:
    try:
        view.release()
    except BufferError:
        pass  # an array or structure was made from it: stale from now on
