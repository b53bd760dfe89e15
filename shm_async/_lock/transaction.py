"""Transactions: write to a private copy, which is copied back as a whole, or not at all."""

import os
from typing import Any, NoReturn

from .._memory.elements import like, plain
from .._mistakes import NoAwait
from .._native import MARK_LATER, lock_commit
from .contract import Table
from .labels import with_label
from .long_way import Block, SpecialHold
from .ofd import FORKED, failure

__all__ = ["Transaction"]


class LateHold(SpecialHold):
    """The write lock, with the generation odd only during a commit."""

    __slots__ = ()
    manner = MARK_LATER

    def commit(self, copy: bytearray) -> None:
        """Write `copy` over the data: for a caller that has the right to release the lock."""
        assert self._at is not None
        lock = self._at.handle
        code = lock_commit(lock, plain(self.view), copy)
        if code == FORKED and lock.pid != os.getpid():
            return  # in a forked child: the parent may still write
        if code:
            raise failure(code, self._table.name, lock)

    def take(self) -> bool:
        """Take the right to release the lock; False: it is not held."""
        return self._take()

    def leave(self) -> None:
        """Release the lock: for a caller that has that right."""
        self._leave()

    def state(self) -> str:
        """Return its state in one word."""
        return self._state()


class Transaction(Block, NoAwait):
    """The write lock and a private copy of the data, made by `Region.transaction`.

    ``async with transaction as view`` (waits in the event loop, cancellable) or ``with
    transaction as view`` (blocks the thread) yields the copy: a writable memoryview of the
    region's element type, valid in the block. Its clean end copies the changes back, and
    releases the lock.

    An exception, a cancellation, or the death of the process in the block leaves the region
    as it was, without an error for the next holder. A process that is killed while it copies
    back leaves a half-written region, and the next holder gets OwnerDiedError. Copying back
    takes as long as a memcpy from the first to the last changed byte.

    Copying in and out blocks the event loop, or the thread, for a memcpy of the region each.
    A transaction can be used again, but not twice at once. A forked child does not have it:
    the end of the block does nothing there.
    """

    __module__ = "shm_async"

    __slots__ = ("_copy", "_hold", "_table", "_view")
    _instead = "`async with region.transaction() as view:`"

    # Invariant: in the block _view is a view of all of _copy; else both are None.

    def __init__(
        self,
        table: Any,
        timeout: float | None,
        fast: bool,
        region: object,
        label: str | None = None,
    ) -> None:
        self._table: Table = table  # Any above: the public types end at what users do not make
        self._hold = LateHold(table, timeout, fast, region, label)
        self._copy: bytearray | None = None
        self._view: memoryview | None = None

    async def __aenter__(self) -> memoryview:
        return self._begin(await self._hold.__aenter__())

    def __enter__(self) -> memoryview:
        return self._begin(self._hold.__enter__())

    def _begin(self, whole: memoryview) -> memoryview:
        try:
            self._copy = bytearray(plain(whole))
            view = self._view = like(whole, memoryview(self._copy))
        except BaseException:
            self._end_block(clean=False)
            raise
        return view

    def _end_block(self, *, clean: bool) -> None:
        if not self._hold.take():  # ended already
            return
        copy, self._copy = self._copy, None
        view, self._view = self._view, None
        try:
            if view is not None:
                _release(view)
            if clean and copy is not None:
                self._hold.commit(copy)
        finally:
            self._hold.leave()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: ask its region for another")

    def __repr__(self) -> str:
        kind = with_label("Transaction", self._hold.label)
        return f"<{kind} of {self._table.name!r}, {self._hold.state()}>"


def _release(view: memoryview) -> None:
    try:
        view.release()
    except BufferError:
        pass  # an array or structure was made from it: stale from now on
