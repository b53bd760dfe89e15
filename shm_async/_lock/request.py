"""The request of a cohort for the kernel's lock, in the waiting thread (in C)."""

from typing import Protocol
from weakref import ref

from .._native import (
    BEGUN,
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

__all__ = ["BEGUN", "CALLED_OFF", "NOT_NOW", "Request"]

#: A manner of beginning to write that means not to begin.
NOT_NOW = -1


class Asker(Protocol):
    """The cohort that asks for the lock."""

    def manner_of_next(self) -> int:
        """Return in what manner the next task will begin to write; NOT_NOW: it will not."""
        ...

    def request_ended(self, code: int) -> None:
        """Handle the end of the request.

        The code is 0 (granted), BEGUN (and the next task writes), CALLED_OFF or another -errno.
        """
        ...

    def begin_again(self) -> None:
        """Ask anew, as an exception (Ctrl-C) came while the end was handled."""
        ...


class Request:
    """The one request of a cohort: at most one is under way."""

    __slots__ = ("_asker", "_watching", "handle", "loop", "name", "tally", "under_way")

    # Invariants: under_way from a start that succeeded until the asker is told of its end, also
    # while the request is being called off. _watching is the eventfd while the loop watches it,
    # else -1; the loop watches it from the first start until `rest`.
    # _asker is weak, as it has this request: a cycle of the two would outlive a loop that ended
    # before it closed the cohort, and with it the OFD.

    def __init__(
        self, asker: Asker, handle: LockHandle, loop: Loop, name: str, tally: Tally
    ) -> None:
        self._asker = ref(asker)
        self.handle = handle
        self.loop = loop
        self.name = name
        self.tally = tally
        self.under_way = False
        self._watching = -1

    def start(self, exclusive: bool) -> Exception | None:
        """Ask for the lock. At the end the loop tells the asker.

        Returns:
            The error if there is no thread or no descriptor left to wait with.
        """
        try:
            self._watch()
        except OSError as error:
            return error
        self.tally.requests += 1
        self.under_way = True  # before: an exception (Ctrl-C) comes when the call has returned
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
        asker = self._asker() if self.under_way else None
        if asker is None:
            waiter_finish(self.handle, NOT_NOW)  # nobody wants the result
            return
        manner = asker.manner_of_next()
        try:
            self.under_way = False  # before: an exception (Ctrl-C) comes when the call has returned
            code = waiter_finish(self.handle, manner)
            if code == NOT_YET:
                self.under_way = True
            elif code != FORKED:  # closed since
                asker.request_ended(code)
        except BaseException:
            asker.begin_again()
            raise
