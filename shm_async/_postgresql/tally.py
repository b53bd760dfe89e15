"""What the locks of a region have done, counted as they go."""

from time import monotonic

from .._lock.statistics import Statistics

__all__ = ["Tally"]


class Tally:
    """The counts of one region, in the fields of `Statistics`."""

    __slots__ = (
        "cancelled",
        "contended",
        "hand_overs",
        "longest_hold",
        "longest_wait",
        "reads",
        "requests",
        "waited",
        "waiting",
        "writes",
    )

    def __init__(self) -> None:
        self.reads = self.writes = self.contended = self.waiting = self.cancelled = 0
        self.hand_overs = self.requests = 0
        self.waited = self.longest_wait = self.longest_hold = 0.0

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

    def held(self, start: float) -> None:
        self.longest_hold = max(self.longest_hold, monotonic() - start)

    def figures(self) -> Statistics:
        return Statistics(
            reads=self.reads,
            writes=self.writes,
            contended=self.contended,
            waiting=self.waiting,
            waited=self.waited,
            longest_wait=self.longest_wait,
            longest_hold=self.longest_hold,
            cancelled=self.cancelled,
            hand_overs=self.hand_overs,
            kernel_requests=self.requests,
        )
