"""The request of a cohort for the kernel's lock, in the waiting thread (in C)."""

from collections.abc import Callable
from weakref import WeakMethod

from .._native import (
    CALLED_OFF,
    NOT_YET,
    LockHandle,
    waiter_cancel,
    waiter_fd,
    waiter_finish,
    waiter_start,
)
from .loops import Loop
from .ofd import FORKED, failure
from .statistics import Tally

__all__ = ["CALLED_OFF", "Request"]


class Request:
    """The one request of a cohort: at most one is under way."""

    __slots__ = ("_ended", "_watching", "handle", "loop", "name", "tally", "under_way")

    # Invariants: under_way from a start that succeeded until _ended is called, also while the
    # request is being called off. _watching is the eventfd while the loop watches it, else -1;
    # the loop watches it from the first start until `rest`.
    # _ended is weak: it belongs to the cohort that has this request. A cycle of the two would
    # outlive a loop that ended before it closed the cohort, and with it the OFD.

    def __init__(self, handle: LockHandle, loop: Loop, name: str, tally: Tally) -> None:
        self.handle = handle
        self.loop = loop
        self.name = name
        self.tally = tally
        self.under_way = False
        self._ended: WeakMethod[Callable[[int], None]] | None = None
        self._watching = -1

    def start(self, exclusive: bool, ended: Callable[[int], None]) -> Exception | None:
        """Ask for the lock.

        At its end the loop calls `ended`, a method, with 0, CALLED_OFF or another -errno.

        Returns:
            The error if there is no thread or no descriptor left to wait with.
        """
        self._ended = WeakMethod(ended)
        try:
            self._watch()
        except OSError as error:
            return error
        self.tally.requests += 1
        code = waiter_start(self.handle, exclusive)
        self.under_way = code == 0
        return failure(code, self.name) if code else None

    def call_off(self) -> None:
        """Cancel it; it ends later, or at once if it had been granted already."""
        if waiter_cancel(self.handle):
            self._finish()

    def rest(self) -> None:
        """Stop watching the eventfd. A request that is under way will not be reported."""
        self.under_way = False
        self._ended = None
        if self._watching >= 0:
            self.loop.unwatch(self._watching)
            self._watching = -1

    def _watch(self) -> None:
        if self._watching < 0:
            fd = waiter_fd(self.handle, self.name)
            self.loop.watch(fd, self._finish)
            self._watching = fd

    def _finish(self) -> None:
        """Finish a request whose eventfd is readable: granted, called off or refused."""
        code = waiter_finish(self.handle)
        if code in (NOT_YET, FORKED):  # FORKED: closed since
            return
        self.under_way = False
        ended = None if self._ended is None else self._ended()
        if ended is not None:
            ended(code)
