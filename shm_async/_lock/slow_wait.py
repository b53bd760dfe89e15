"""Waits that last too long, and are logged while they last: `Region.slow_wait`.

A task that holds the lock and waits for another task that wants it waits for ever. That cannot
be detected for certain. So a long wait is reported: the waiter, the holders, and their lines.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from .call_sites import frame_of_the_user, levels_to_the_user, place_of_frame, place_of_task
from .labels import LABEL, with_label

if TYPE_CHECKING:
    from .loops import Loop, Waiter

__all__ = ["Alarm", "SlowWait", "ThreadAlarm"]

logger = logging.getLogger("shm_async")


class SlowWait:
    """The settings of a region for slow waits: the seconds before a report, and its text.

    `holders` describes the present holders of the lock. It must not raise.
    """

    __slots__ = ("holders", "seconds")

    def __init__(self, seconds: float, holders: Callable[[], str]) -> None:
        self.seconds = seconds
        self.holders = holders

    def report(self, name: str, where: str, waited: float, what: str, others: int) -> None:
        """Log a wait that lasts, at the line of the user's code if that is on the stack."""
        more = f"; {others} more of this event loop wait, too" if others else ""
        logger.warning(
            "region %r: %s has been waiting for the %s for %.3f s, more than slow_wait "
            "allows; held by: %s%s",
            name,
            where,
            what,
            waited,
            self.holders(),
            more,
            stacklevel=levels_to_the_user(),
        )


def _lock(exclusive: bool, label: str | None) -> str:
    return with_label("write lock" if exclusive else "read lock", label)


# ---- tasks -----------------------------------------------------------------------


class Queue(Protocol):
    """The tasks of one event loop that wait for a lock."""

    @property
    def loop(self) -> "Loop": ...
    @property
    def name(self) -> str: ...
    @property
    def thread(self) -> int: ...
    @property
    def queue(self) -> "Sequence[Waiter]": ...
    def slow_wait(self) -> SlowWait | None: ...


class Alarm:
    """The reporter of the slow waits of one queue, with one timer, and one report at a time.

    Invariants: `_set` <=> the loop will call `_ring`. Each waiter that began at `_told` or before
    was reported, or counted in a report.
    """

    __slots__ = ("_set", "_told")

    def __init__(self) -> None:
        self._set = False
        self._told = 0.0

    def wait_begins(self, queue: Queue) -> None:
        """Set the timer, if it is not set, for a task that joins the queue."""
        slow = queue.slow_wait()
        if slow is not None and not self._set:
            self._set_for(queue, slow.seconds)

    def _set_for(self, queue: Queue, seconds: float) -> None:
        self._set = True
        queue.loop.call_later(seconds, partial(self._ring, queue))

    def _ring(self, queue: Queue) -> None:
        self._set = False
        slow = queue.slow_wait()
        if slow is None:
            return
        now = monotonic()
        untold = [waiter for waiter in list(queue.queue) if waiter.since > self._told]
        if not untold:
            return
        oldest = min(untold, key=lambda waiter: waiter.since)
        left = oldest.since + slow.seconds - now
        if left <= 0:
            self._report(queue, slow, oldest, untold, now)
            left = slow.seconds  # at most one report in so many seconds, however many wait
        self._set_for(queue, left)

    def _report(
        self, queue: Queue, slow: SlowWait, oldest: "Waiter", untold: "list[Waiter]", now: float
    ) -> None:
        """Report the oldest wait, and count those that began soon after it."""
        self._told = max(
            w.since for w in untold if w is oldest or now - w.since >= slow.seconds / 2
        )
        others = sum(waiter.since <= self._told for waiter in untold) - 1
        where = place_of_task(oldest.task, queue.thread)
        what = _lock(oldest.exclusive, oldest.label)
        slow.report(queue.name, where, now - oldest.since, what, others)


# ---- threads ---------------------------------------------------------------------


class ThreadAlarm:
    """The reporter of one wait that blocks its thread; the thread calls `look` repeatedly."""

    __slots__ = ("_start", "_told")

    def __init__(self) -> None:
        self._start = monotonic()
        self._told = False

    def look(self, slow: SlowWait | None, name: str, *, exclusive: bool, tick: int) -> int:
        """Report the wait if it is slow. Return the ns until the next look, at most `tick`."""
        if slow is None or self._told:
            return tick
        waited = monotonic() - self._start
        if waited < slow.seconds:
            return max(1, min(tick, int((slow.seconds - waited) * 1e9)))
        self._told = True
        where = f"this thread at {place_of_frame(frame_of_the_user(sys._getframe()))}"
        slow.report(name, where, waited, _lock(exclusive, LABEL.get()), 0)
        return tick
