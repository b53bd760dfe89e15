"""What a region's locks have done in this process: counted as they go, summed when asked."""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from threading import Lock, RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from .._native import LockHandle
from .slow_wait import SlowWait

if TYPE_CHECKING:
    from .loops import Waiter

__all__ = ["Ledger", "Statistics", "Tally", "tell_of_wait", "wait_listeners"]

#: Called when a wait ends, in the thread or task that waited, with the name of the region, the
#: seconds, and the label of the lock. They must not raise. A forked child keeps them.
wait_listeners: "list[Callable[[str, float, str | None], None]]" = []


def tell_of_wait(name: str, seconds: float, label: str | None) -> None:
    """Call the listeners."""
    for listener in wait_listeners:
        listener(name, seconds, label)


#: Upper ends of the classes in which waits are counted, in seconds; one more has the longer ones.
WAIT_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
CLASSES = len(WAIT_BOUNDS) + 1

#: Labels that a region's figures tell apart; locks with others count under OTHER together.
MAX_LABELS = 100
OTHER = "(other)"


@dataclass(frozen=True, slots=True)
class Statistics:
    """The locks of one region in this process, since it was opened or forked.

    Times are in seconds. Readers of one event loop whose holds overlap count as one hold, and
    holds that have not ended yet do not count, in `holds`, `held` and `longest_hold`.
    """

    __module__ = "shm_async"

    wait_bounds: ClassVar[tuple[float, ...]] = WAIT_BOUNDS  #: of the classes of `waits`, seconds

    reads: int = 0  #: read locks granted
    writes: int = 0  #: write locks granted, upgrades included
    contended: int = 0  #: of these and of those that were given up, had to wait
    waiting: int = 0  #: tasks and threads that wait now, without those that were just cancelled
    waited: float = 0.0  #: by all who waited, together
    longest_wait: float = 0.0  #: of those that have ended
    holds: int = 0  #: that have ended; a conversion ends one and begins another
    held: float = 0.0  #: by them, together
    longest_hold: float = 0.0  #: of those that have ended
    cancelled: int = 0  #: waits that ended without the lock (cancelled, timed out, failed)
    hand_overs: int = 0  #: from task to task without the kernel
    kernel_requests: int = 0  #: asked of an event loop's waiting thread
    owner_deaths: int = 0  #: of writers, as locks of this process found; with
    #: ``on_owner_death="ignore"`` those whose data this process has written over
    waits: tuple[int, ...] = (0,) * CLASSES  #: waits that ended, granted or not, by length. As long
    #: as the bound of the same place in `wait_bounds` or shorter; the last are longer than all
    labels: "Mapping[str, Statistics]" = field(default_factory=dict)  #: the same of the locks with
    #: that label, which are reads, writes, contended, waited, longest_wait, holds, held,
    #: longest_hold and waits; a hold lasts there to its end, conversions included. After 100
    #: labels all others count as "(other)"


class LabelTally:
    """The counts of the locks with one label. Guarded by the lock of its LabelBook."""

    __slots__ = (
        "contended",
        "grants",
        "held",
        "holds",
        "longest_hold",
        "longest_wait",
        "waited",
        "waits",
    )

    def __init__(self) -> None:
        self.grants = [0, 0]  # read, write
        self.contended = self.holds = 0
        self.waited = self.held = self.longest_wait = self.longest_hold = 0.0
        self.waits = [0] * CLASSES

    def figures(self) -> Statistics:
        """What was counted so far."""
        return Statistics(
            reads=self.grants[False],
            writes=self.grants[True],
            contended=self.contended,
            waited=self.waited,
            longest_wait=self.longest_wait,
            holds=self.holds,
            held=self.held,
            longest_hold=self.longest_hold,
            waits=tuple(self.waits),
        )


class LabelBook:
    """The tallies of all labels of a region in this process."""

    def __init__(self) -> None:
        self._tallies: dict[str, LabelTally] = {}
        self._lock = RLock()  # a signal handler may take a lock, too

    def _of(self, label: str) -> LabelTally:
        if label not in self._tallies and len(self._tallies) >= MAX_LABELS:
            label = OTHER
        return self._tallies.setdefault(label, LabelTally())

    def granted(self, label: str, exclusive: bool) -> None:
        """Count a grant."""
        with self._lock:
            self._of(label).grants[exclusive] += 1

    def waited(self, label: str, seconds: float) -> None:
        """Count a wait that has ended."""
        with self._lock:
            tally = self._of(label)
            tally.contended += 1
            tally.waited += seconds
            tally.longest_wait = max(tally.longest_wait, seconds)
            tally.waits[bisect_left(WAIT_BOUNDS, seconds)] += 1

    def held(self, label: str, seconds: float) -> None:
        """Note a hold that has ended."""
        with self._lock:
            tally = self._of(label)
            tally.holds += 1
            tally.held += seconds
            tally.longest_hold = max(tally.longest_hold, seconds)

    def figures(self) -> dict[str, Statistics]:
        """What was counted so far."""
        with self._lock:
            return {label: tally.figures() for label, tally in self._tallies.items()}


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
        "labels",
        "longest_wait",
        "name",
        "queue",
        "requests",
        "waited",
        "waiting",
        "waits",
    )

    def __init__(self, handle: LockHandle, labels: LabelBook, name: str) -> None:
        self.handle = handle
        self.labels = labels
        self.name = name  # of the region
        self.queue: deque[Waiter] | None = None  # of an event loop's tasks that wait
        self.joined = 0  # readers that came in without a call to the kernel
        self.contended = self.waiting = self.cancelled = self.hand_overs = self.requests = 0
        self.waited = self.longest_wait = 0.0
        self.waits = [0] * CLASSES

    def wait_ended(self, start: float, label: str | None) -> None:
        """Count the end of a wait, which began at `start` of the monotonic clock, in seconds."""
        seconds = monotonic() - start
        self.waited += seconds
        if seconds > self.longest_wait:  # a call of max() would take as long as all this
            self.longest_wait = seconds
        self.waits[bisect_left(WAIT_BOUNDS, seconds)] += 1
        if label is not None:
            self.labels.waited(label, seconds)
        if wait_listeners:
            tell_of_wait(self.name, seconds, label)

    def waits_now(self) -> int:
        """How many wait now; a task that was cancelled waits no more, though it has not run yet."""
        if self.queue is None:
            return self.waiting
        return sum(waiter.can_wake() for waiter in self.queue.copy())

    def figures(self) -> Statistics:
        """What was counted so far."""
        return Statistics(
            reads=self.handle.reads + self.joined,
            writes=self.handle.writes,
            contended=self.contended,
            waiting=self.waits_now(),
            waited=self.waited,
            longest_wait=self.longest_wait,
            holds=self.handle.holds,
            held=self.handle.held / 1e9,
            longest_hold=self.handle.longest / 1e9,
            cancelled=self.cancelled,
            hand_overs=self.hand_overs,
            kernel_requests=self.requests,
            owner_deaths=self.handle.ignored,
            waits=tuple(self.waits),
        )


class Ledger:
    """The tallies of all OFDs of a region in this process, closed ones included."""

    def __init__(
        self, name: str, slow: float | None = None, slow_wait: SlowWait | None = None
    ) -> None:
        self.name = name  # of the region
        self.slow = slow  # seconds; a longer hold is logged
        self.slow_wait = slow_wait  # a longer wait is logged; None: none is
        self.labels = LabelBook()
        self._deaths = 0
        self._dead: object = None  # the writer that was found dead last
        self._live: list[Tally] = []
        self._past = Statistics()  # of OFDs that are closed
        self._lock = Lock()  # guards all but slow_wait

    def open(self, handle: LockHandle) -> Tally:
        """A tally for a new OFD."""
        tally = Tally(handle, self.labels, self.name)
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
            deaths = total.owner_deaths + self._deaths
        return replace(total, owner_deaths=deaths, labels=self.labels.figures())

    def found_dead(self, *writer: int) -> None:
        """Count the death of a writer, unless it is the one that was found before.

        Args:
            writer: what tells it from all others: its pid, start and pid namespace.
        """
        with self._lock:
            if writer != self._dead:
                self._dead = writer
                self._deaths += 1

    def _bury(self) -> None:
        """Keep the figures of closed OFDs, and nothing else of them."""
        for tally in [each for each in self._live if each.handle.fd < 0 and not each.waits_now()]:
            self._live.remove(tally)
            self._past = _together(self._past, tally.figures())


def _set_slow(handle: LockHandle, seconds: float | None) -> None:
    handle.slow = 0 if seconds is None else max(1, int(seconds * 1e9))


def _together(one: Statistics, other: Statistics) -> Statistics:
    """Those of two OFDs, whose labels their ledger knows."""
    figures: dict[str, Any] = {}
    for each in fields(Statistics):
        first, second = getattr(one, each.name), getattr(other, each.name)
        if each.name == "waits":
            figures["waits"] = tuple(map(sum, zip(first, second, strict=True)))
        elif each.name != "labels":
            longest = each.name.startswith("longest")
            figures[each.name] = max(first, second) if longest else first + second
    return Statistics(**figures)
