"""What a region's locks have done in this process: counted as they go, summed when asked."""

from dataclasses import dataclass, fields
from threading import Lock
from time import monotonic

from ._native import LockHandle

__all__ = ["Ledger", "Statistics", "Tally"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """The locks of one region in this process, since it was opened or forked.

    Times are in seconds. Readers of one event loop whose holds overlap count as one
    hold in `longest_hold`, and holds that have not ended yet do not count there.
    """

    reads: int = 0  #: read locks granted
    writes: int = 0  #: write locks granted, upgrades included
    contended: int = 0  #: of these and of those that were given up: had to wait
    waiting: int = 0  #: tasks and threads that wait now
    waited: float = 0.0  #: by all who waited, together
    longest_wait: float = 0.0
    longest_hold: float = 0.0
    cancelled: int = 0  #: waits that ended without the lock: cancelled, timed out, failed
    hand_overs: int = 0  #: from task to task without the kernel
    kernel_requests: int = 0  #: asked of an event loop's waiting thread


class Tally:
    """The counts of one OFD. Its holder alone writes them, so that no lock is needed.

    The shim counts what it grants itself, in the handle; this counts the rest.
    """

    __slots__ = (
        "cancelled",
        "contended",
        "hand_overs",
        "handle",
        "joined",
        "longest_wait",
        "requests",
        "waited",
        "waiting",
    )

    def __init__(self, handle: LockHandle) -> None:
        self.handle = handle
        self.joined = 0  # readers that came in without a call to the kernel
        self.contended = self.waiting = self.cancelled = self.hand_overs = self.requests = 0
        self.waited = self.longest_wait = 0.0

    def wait_begins(self) -> float:
        """Count a wait; what this returns is for `wait_ended`."""
        self.contended += 1
        self.waiting += 1
        return monotonic()

    def wait_ended(self, start: float) -> None:
        """Count the end of a wait."""
        seconds = monotonic() - start
        self.waiting -= 1
        self.waited += seconds
        self.longest_wait = max(self.longest_wait, seconds)

    def figures(self) -> Statistics:
        """What was counted so far."""
        return Statistics(
            reads=self.handle.reads + self.joined,
            writes=self.handle.writes,
            contended=self.contended,
            waiting=self.waiting,
            waited=self.waited,
            longest_wait=self.longest_wait,
            longest_hold=self.handle.longest / 1e9,
            cancelled=self.cancelled,
            hand_overs=self.hand_overs,
            kernel_requests=self.requests,
        )


class Ledger:
    """The tallies of all OFDs of a region in this process, closed ones included."""

    def __init__(self, slow: float | None = None) -> None:
        self.slow = slow  # seconds; a longer hold is logged
        self._live: list[Tally] = []
        self._past = Statistics()  # of OFDs that are closed
        self._lock = Lock()  # guards the three

    def open(self, handle: LockHandle) -> Tally:
        """A tally for a new OFD."""
        tally = Tally(handle)
        with self._lock:
            self._bury()
            self._live.append(tally)
            _set_slow(handle, self.slow)
        return tally

    def set_slow(self, seconds: float | None) -> None:
        """Have holds reported that last longer than this."""
        with self._lock:
            self.slow = seconds
            for tally in self._live:
                _set_slow(tally.handle, seconds)

    def sum(self) -> Statistics:
        """All of it."""
        with self._lock:
            total = self._past
            for tally in self._live:
                total = _together(total, tally.figures())
            return total

    def _bury(self) -> None:
        """Keep the figures of closed OFDs, and nothing else of them."""
        for tally in [tally for tally in self._live if tally.handle.fd < 0 and not tally.waiting]:
            self._live.remove(tally)
            self._past = _together(self._past, tally.figures())


def _set_slow(handle: LockHandle, seconds: float | None) -> None:
    handle.slow = 0 if seconds is None else max(1, int(seconds * 1e9))


def _together(one: Statistics, other: Statistics) -> Statistics:
    figures = {}
    for field in fields(Statistics):
        first, second = getattr(one, field.name), getattr(other, field.name)
        longest = field.name.startswith("longest")
        figures[field.name] = max(first, second) if longest else first + second
    return Statistics(**figures)
