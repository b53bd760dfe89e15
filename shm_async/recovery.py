"""When a writer dies: holds that may go in all the same, and functions that put the data right.

The generation is odd while somebody writes. Whoever is granted a lock and finds it odd is
refused (OwnerDiedError), by the shim, which looks at it right after every grant: who ends a
hold in any other way than by dying makes it even before the kernel lets go of the lock.
"""

import inspect
from collections.abc import Awaitable, Callable
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, TypeAlias

from ._native import RECOVER, lock_recovered
from .asynclock import Cohort
from .guards import SpecialHold
from .hold import Hold

__all__ = ["OnOwnerDeath", "RecoveryHold", "Repair", "check_policy"]

Repair: TypeAlias = Callable[[Hold], object]

#: What is to happen when the last writer has died.
OnOwnerDeath: TypeAlias = Literal["raise", "ignore"] | Repair


class RecoveryHold(SpecialHold):
    """The write lock, also where the last writer died: `owner_died` tells.

    Only a clean end makes the region sound again then: the end of a block without an
    exception (a cancellation is one), `release` or `downgrade`. After anything else the
    next one is told of the death again.
    """

    __slots__ = ("_owner_died",)
    manner = RECOVER

    _owner_died: bool

    @property
    def owner_died(self) -> bool:
        """Whether the last writer had died inside when the lock was granted last."""
        return self._owner_died

    def _entered(self) -> memoryview:
        assert self._at is not None
        self._owner_died = bool(self._at.handle.unsound)
        return super()._entered()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._put_right()
        super().__exit__(kind, error, traceback)

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        if kind is None:
            self._put_right()
        return super().__aexit__(kind, error, traceback)

    def release(self) -> None:
        """Release the lock, as a clean end. `view` must not be used any more. Never blocks.

        Raises:
            RuntimeError: not held, or called in another thread than the event loop's.
        """
        self._put_right()
        super().release()

    def downgrade(self) -> None:
        """Turn the write lock into a read lock, as a clean end. Never waits.

        Raises:
            RuntimeError: this hold does not write, or belongs to another event loop.
        """
        self._put_right()
        super().downgrade()

    def _put_right(self) -> None:
        at = self._at
        if self._view is None or at is None:  # released before
            return
        if isinstance(at, Cohort) and at.thread != get_ident():
            return  # what follows will be refused
        lock_recovered(at.handle)

    def repair(self) -> None:
        """Have `on_owner_death` put the data right, if there is need, and release the lock."""
        function = self._region._terms.on_owner_death
        try:
            if self._owner_died and not isinstance(function, str):
                _refuse_awaitables(function, function(self))
        except BaseException:
            if self._view is not None:
                self._leave()
            raise
        if self._view is not None:  # it may have released it
            self.release()


def check_policy(policy: OnOwnerDeath, *, readonly: bool = False) -> OnOwnerDeath:
    """Return `policy` if it is one.

    Raises:
        TypeError: neither a str nor a plain function. ValueError: an unknown str, or a
            function that could never write, as the region is read-only.
    """
    choices = "choose 'raise', 'ignore', or a function that is given the hold and repairs the data"
    if isinstance(policy, str):
        if policy not in ("raise", "ignore"):
            raise ValueError(f"unknown on_owner_death {policy!r}: {choices}")
        return policy
    if not callable(policy):
        raise TypeError(f"on_owner_death must not be {type(policy).__name__}: {choices}")
    if inspect.iscoroutinefunction(policy) or inspect.iscoroutinefunction(
        getattr(policy, "__call__", None)  # noqa: B004  # of an object, not whether there is one
    ):
        raise TypeError(
            "on_owner_death must be a plain function: it runs under the write lock, "
            "also for threads that have no event loop"
        )
    if readonly:
        raise ValueError(
            "on_owner_death must be 'raise' or 'ignore' with readonly=True: "
            "who cannot write cannot repair"
        )
    return policy


def _refuse_awaitables(function: Repair, result: Any) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"on_owner_death={function!r} returned an awaitable: nothing was repaired")
