"""The recovery from a writer's death: holds that are granted all the same, and repairs.

The generation is odd while a process writes. The shim reads it right after every grant, and
refuses the lock if it is odd (OwnerDiedError). A writer that ends its hold in any way but by
dying makes the generation even before the kernel releases the lock.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from .._native import RECOVER, lock_recovered
from .contract import Attempt, Place, Way
from .hold import Hold
from .long_way import SpecialHold
from .loops import Task

__all__ = ["OnOwnerDeath", "RecoveryHold", "Repair", "RepairHold"]

Repair: TypeAlias = Callable[[Hold], object]

#: The reaction to the death of the last writer: `_terms.DeathPolicy`, with the hold's type.
OnOwnerDeath: TypeAlias = Literal["raise", "ignore"] | Repair


class RecoveryHold(SpecialHold):
    """The write lock, granted even if the last writer died: see `owner_died`.

    Then only a clean end makes the region sound again: the end of a block without an
    exception (a cancellation is one), `release` or `downgrade`. After any other end the
    next holder learns of the death again.
    """

    __slots__ = ("_owner_died",)
    manner = RECOVER

    _owner_died: bool

    @property
    def owner_died(self) -> bool:
        """Whether the last writer had died during its write, when the lock was granted last."""
        return self._owner_died

    def _entered(self, place: Place, task: Task = None, beside: bool = False) -> memoryview:
        handle = place.handle
        self._owner_died = bool(handle.unsound)
        if self._owner_died:
            self._table.ledger.found_dead(handle.dead_pid, handle.dead_start, handle.dead_ns)
        return super()._entered(place, task, beside)

    def _end(self, *, clean: bool) -> None:
        if clean:
            self._put_right()
        super()._end(clean=clean)

    def release(self) -> None:
        """Release the lock, as a clean end. `view` must not be used any more. Never blocks.

        Raises:
            RuntimeError: not held, or called in another thread than the event loop's.
        """
        super().release()

    def downgrade(self) -> None:
        """Turn the write lock into a read lock, as a clean end. Never waits.

        Raises:
            RuntimeError: this hold does not write, or belongs to another event loop.
        """
        super().downgrade()

    def _downgrade(self, attempt: Attempt) -> None:
        self._put_right()
        super()._downgrade(attempt)

    def _put_right(self) -> None:
        """Make the region sound, for a caller that has taken the token of _held."""
        if self._at is not None:
            lock_recovered(self._at.handle)


class RepairHold(RecoveryHold):
    """The hold that a function given as `on_owner_death` gets."""

    __slots__ = ()

    async def acquire_and_repair(self, way: Way, repair: Repair) -> None:
        """Have that function repair the data, if it still needs repair; then release."""
        await self._claim_and_acquire(way)
        self._repair(repair)

    def _repair(self, repair: Repair) -> None:
        try:
            if self._owner_died:
                _refuse_awaitables(repair, repair(self))
        except BaseException:
            if self._take():
                self._end(clean=False)
            raise
        if self._take():  # the function may have released the lock
            self._end(clean=True)


def _refuse_awaitables(function: Repair, result: Any) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"on_owner_death={function!r} returned an awaitable: nothing was repaired")
