"""Change notification: waiting, in an event loop, until somebody has written.

How that is noticed is in lookout.py.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio.lowlevel

from ._native import BUSY, SHRUNK, control_generation
from .errors import OwnerDiedError, RegionFormatError, RegionReplacedError
from .filelock import Ending, Opener, closed, failure
from .locks import close_in_its_thread
from .lookout import LAST, NEVER, Lookout, hub_of
from .loops import current_loop
from .snapshot import Snapshots

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Changes", "Watches", "close_lookouts"]


class Changes(AsyncIterator[int]):
    """The generations that a region comes to, made by `Region.changes`.

    It keeps no more than a number, so it may be dropped at any time. For one task: each wants
    its own.
    """

    __slots__ = ("_region", "_since")

    def __init__(self, region: "Watches", since: int) -> None:
        self._region: Watches | None = region  # None once closed
        self._since = since

    def __aiter__(self) -> "Self":
        return self

    async def __anext__(self) -> int:
        if self._region is None:
            raise StopAsyncIteration
        self._since = await self._region.wait_changed(since=self._since)
        return self._since

    async def aclose(self) -> None:
        """End the iteration. A task that waits in it hears of one more change."""
        self._region = None


class Watches(Snapshots):
    """What a Region is to those who want to hear of changes."""

    __slots__ = ("_lookouts",)

    _lookouts: WeakValueDictionary[object, Lookout]  # by event loop, which keeps it

    async def wait_changed(self, *, since: int | None = None) -> int:
        """Wait until somebody has written, and return the generation by then.

        A change is the end of a write lock, or of a transaction that changed something, in
        any process, thread or task that uses this package. Changes that come faster than
        they are waited for are merged into one; the last one is never missed. By the time
        this returns the next one may be on its way, and only a lock keeps it out. A write
        through `buffer`, or by a program that takes flock alone, is not seen.

        Waits in the event loop, without a thread, on an inotify descriptor that all regions
        of the loop share. Cancellable, and yields at least once. The writer who ends the wait
        pays for that what it costs the kernel to wake somebody up; others pay nothing. Works in
        a forked child.

        With ``readonly=True`` one cannot leave word for writers. Then it looks 50 times a second,
        for all tasks of the loop together.

        Args:
            since: return at once if the region has come further than this generation, which
                an earlier call, or `generation`, told. None: further than it is now.

        Returns:
            An even number. A writer who is inside counts once he has left.

        Raises:
            OwnerDiedError: the last writer died inside; see `on_owner_death`. With "ignore" the
                death counts as the end of a lock, and a function repairs the data first.
            RegionReplacedError: somebody has resized it; with ``follow=True`` that is a change.
            RegionNotFoundError: it was unlinked, with ``if_unlinked="raise"``.
            RegionClosedError: also while waiting. RegionSizeError: the object was truncated.
            RegionFormatError: the region is not managed, so it has no generation.
            RuntimeError: the task holds a lock of the region, so nobody could ever write.
            OSError: EMFILE, ENOSPC: the limits of inotify; the message names them.
            TypeError: `since` is no int.
        """
        baseline = self._baseline()
        if since is not None:
            since = _check_since(since)
        else:  # a dead writer whose death is to be ignored is not news
            since = max(baseline, self._lookout().look(LAST))
        await anyio.lowlevel.checkpoint()
        repairs = 0
        while True:
            lookout = self._lookout()
            code = lookout.look(since)
            if code > since:
                return code
            try:
                if code < 0 and code != BUSY:
                    raise failure(code, self._name, lookout.handle)
                self._refuse_to_wait_for_ones_own_change()
                await lookout.wait()
            except (OwnerDiedError, RegionReplacedError) as error:
                repairs += await self._mend(error, repairs)

    def changes(self, *, since: int | None = None) -> Changes:
        """The changes from now on: ``async for generation in region.changes()``.

        Each step is a `wait_changed`, see there, since the step before. So a body that is slow
        sees what happened meanwhile as one change, and one that is quick may see each. Never
        ends by itself. Any number of tasks may each have their own.

        What is read after this call, and before the first step, misses nothing.

        Args:
            since: begin with what has changed after this generation, rather than now.

        Raises:
            RegionClosedError, RegionSizeError, RegionFormatError, TypeError; and, in a step,
            what `wait_changed` raises.
        """
        baseline = self._baseline()
        return Changes(self, baseline if since is None else _check_since(since))

    # ---- lookouts ----------------------------------------------------------------

    def _baseline(self) -> int:
        """The newest generation at which a write had ended."""
        opener = self._usable()
        if opener.control is None:
            raise RegionFormatError(
                f"region {self._name!r} has no control page, where changes would be counted: "
                "create it with layout='managed' to watch it"
            )
        if not opener.segment.whole(opener.mapping.size):
            raise failure(SHRUNK, self._name)
        return control_generation(opener.control) & LAST & ~1

    def _lookout(self) -> Lookout:
        """The running event loop's."""
        native = current_loop()
        lookouts, opener = self._lookouts, self._usable()  # in this order: see _have_locks
        lookout = lookouts.get(native)
        if lookout is not None and lookout.handle.fd >= 0:
            return lookout
        try:
            lookout = lookouts[native] = Lookout(opener, hub_of(native))
        except OSError:  # closed meanwhile, or replaced: there was nothing left to open it from
            if self._usable() is opener:
                raise
            return self._lookout()
        if self._opener is None:  # closed meanwhile, and close() did not see this one
            lookout.close()
            raise closed(self._name)
        return lookout

    def _refuse_to_wait_for_ones_own_change(self) -> None:
        cohort = self._cohorts.get(current_loop())
        task = None if cohort is None else cohort.current_task()
        if cohort is not None and task is not None and cohort.has(task):
            raise RuntimeError(
                f"this task holds a lock of region {self._name!r}, so nobody can write while "
                "it waits for that: release it first"
            )

    # ---- birth, fork, death --------------------------------------------------------

    def _have_locks(self, opener: Opener) -> None:
        super()._have_locks(opener)
        self._lookouts = WeakValueDictionary()  # last: none of the opener before gets in here

    def _end_locks(self) -> None:
        super()._end_locks()
        close_lookouts(self._lookouts, closed)


def close_lookouts(lookouts: WeakValueDictionary[object, Lookout], why: Ending) -> None:
    """Close them all, each in its event loop, and tell who waits why."""
    for lookout in list(lookouts.values()):
        close_in_its_thread(lookout, why)


def _check_since(since: int) -> int:
    if isinstance(since, bool) or not isinstance(since, int):
        raise TypeError(f"since must be a generation, an int, not {type(since).__name__}")
    return min(max(NEVER, since), LAST)
