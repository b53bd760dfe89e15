"""What the locks of a region have done, counted as they go."""

from bisect import bisect_left
from time import monotonic

from .._lock.labels import LABEL
from .._lock.statistics import WAIT_BOUNDS, Statistics, tell_of_wait

__all__ = ["Tally"]


class Tally:
    """The counts of one region, in the fields of `Statistics`."""

    __slots__ = (
        "cancelled",
        "contended",
        "hand_overs",
        "held_for",
        "holds",
        "longest_hold",
        "longest_wait",
        "name",
        "reads",
        "requests",
        "waited",
        "waiting",
        "waits",
        "writes",
    )

    def __init__(self, name: str) -> None:
        self.name = name  # of the region
        self.reads = self.writes = self.contended = self.waiting = self.cancelled = 0
        self.hand_overs = self.requests = self.holds = 0
        self.waited = self.held_for = self.longest_wait = self.longest_hold = 0.0
        self.waits = [0] * (len(WAIT_BOUNDS) + 1)

    def granted(self, *, exclusive: bool) -> None:
        if exclusive:
            self.writes += 1
        else:
            self.reads += 1

    def wait_ended(self, start: float, *, granted: bool) -> None:
        seconds = monotonic() - start
        self.waiting -= 1
        self.waited += seconds
        self.longest_wait = max(self.longest_wait, seconds)
        self.cancelled += not granted
        self.waits[bisect_left(WAIT_BOUNDS, seconds)] += 1
        tell_of_wait(self.name, seconds, LABEL.get())

    def held(self, start: float) -> None:
        seconds = monotonic() - start
        self.holds += 1
        self.held_for += seconds
        self.longest_hold = max(self.longest_hold, seconds)

    def figures(self) -> Statistics:
        return Statistics(
            reads=self.reads,
            writes=self.writes,
            contended=self.contended,
            waiting=self.waiting,
            waited=self.waited,
            longest_wait=self.longest_wait,
            holds=self.holds,
            held=self.held_for,
            longest_hold=self.longest_hold,
            cancelled=self.cancelled,
            hand_overs=self.hand_overs,
            kernel_requests=self.requests,
            waits=tuple(self.waits),
        )
