"""Change notification: waiting, in an event loop, until a process has written.

lookout.py notices the writes.
"""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .._failures import closed, replaced
from .._lock import later
from .._lock.loops import current_loop
from .._lock.ofd import Ending, failure
from .._lock.table import LockTable, close_in_its_thread
from .._lock.ways import IN_LOOP
from .._native import BUSY, control_generation
from ..errors import OwnerDiedError, RegionFormatError, RegionReplacedError
from .lookout import LAST, NEVER, Lookout, hub_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Changes", "Watchers"]


class Changes(AsyncIterator[int]):
    """An iterator of the generations that a region reaches, made by `Region.changes`.

    It keeps only a number, so it may be dropped at any time. It is for one task: make one for
    each task. It works in a forked child, in an event loop of the child's own.
    """

    __module__ = "shm_async"

    __slots__ = ("_life", "_region", "_since", "_watchers")

    def __init__(self, watchers: Any, since: int, life: int, region: object) -> None:
        self._watchers: Watchers | None = watchers  # None once closed
        self._region = region  # only to keep it alive
        self._since = since
        self._life = life  # the life that `since` belongs to

    def __aiter__(self) -> "Self":
        return self

    async def __anext__(self) -> int:
        if self._watchers is None:
            raise StopAsyncIteration
        self._since, self._life = await self._watchers.wait(self._since, self._life)
        return self._since

    async def aclose(self) -> None:
        """End the iteration. A task that waits in it still gets one more change.

        Never waits, so it cannot be cancelled, and raises nothing.
        """
        self._watchers = self._region = None


class Watchers:
    """The tasks that wait for a region to change: one lookout for each event loop."""

    __slots__ = ("_follow_name", "_lives", "_lookouts", "_table")

    _table: LockTable
    _lookouts: WeakValueDictionary[object, Lookout]  # by event loop, which keeps it
    _lives: int  # how often an unrelated region replaced ours: each begins its generations anew
    _follow_name: Callable[[], None]  # attaches to the new region that has our name

    def __init__(self, table: LockTable, follow_name: Callable[[], None]) -> None:
        self._table = table
        self._follow_name = follow_name
        self._lives = 0
        self._lookouts = WeakValueDictionary()

    def lookouts(self) -> list[Lookout]:
        """Return the lookouts that exist now."""
        return _alive(self._lookouts)

    async def wait_changed(self, since: int | None) -> int:
        """Wait until a process has written: see `Region.wait_changed`."""
        life = self._lives
        baseline = self._baseline()
        if since is not None:
            since = _check_since(since)
        else:  # the death of a writer, if the region ignores deaths, is not a change
            since = max(baseline, self._lookout().look(LAST))
        return (await self.wait(since, life))[0]

    async def wait(self, since: int, life: int) -> tuple[int, int]:
        """Wait for a generation after `since`, of the life `life`. Return the new two."""
        self._baseline()
        await later.lowlevel.checkpoint()
        repairs = 0
        while True:
            lookout = self._lookout()
            if life != self._lives:  # any generation of the new region is a change
                since, life = NEVER, self._lives
            code = lookout.look(since)
            if code > since:
                return code, life
            if (code >= 0 or code == BUSY) and self._is_supplanted(lookout):
                self._follow_name()
                continue
            try:
                if code < 0 and code != BUSY:
                    raise failure(code, self._table.name, lookout.handle)
                self._refuse_to_wait_for_ones_own_change()
                await lookout.wait()
            except (OwnerDiedError, RegionReplacedError) as error:
                repairs += await self._table.mend(error, repairs, IN_LOOP)

    def changes(self, since: int | None, region: object) -> Changes:
        """Return the changes from now on: see `Region.changes`. They keep `region` alive."""
        baseline = self._baseline()
        since = baseline if since is None else _check_since(since)
        return Changes(self, since, self._lives, region)

    # ---- lookouts ----------------------------------------------------------------

    def _baseline(self) -> int:
        """Return the newest generation at which a write had ended."""
        opener = self._table.whole()
        if opener.control is None:
            raise RegionFormatError(
                f"region {self._table.name!r} has no control page, which would count changes: "
                "create it with layout='managed' to watch it"
            )
        return control_generation(opener.control) & LAST & ~1

    def _lookout(self) -> Lookout:
        """Return the lookout of the running event loop; open one if there is none."""
        native = current_loop()
        lookouts, opener = self._lookouts, self._table.usable()  # in this order: see move_on
        lookout = lookouts.get(native)
        if lookout is not None and lookout.handle.fd >= 0:
            if lookout.can_hear():
                return lookout
            lookout.give_up()
        try:
            lookout = lookouts[native] = Lookout(opener, hub_of(native))
        except OSError:  # closed or replaced meanwhile, so its descriptor could not be opened
            if self._table.usable() is opener:
                raise
            return self._lookout()
        if self._table.opener is None:  # closed meanwhile, and close() did not see this one
            lookout.close()
            raise closed(self._table.name)
        return lookout

    def _is_supplanted(self, lookout: Lookout) -> bool:
        """Tell whether another segment is to be watched now."""
        try:
            return lookout.is_supplanted()
        except OSError:
            if self._table.usable().segment is lookout.segment:
                raise
            return True  # another thread has closed that segment, and uses a new one

    def _refuse_to_wait_for_ones_own_change(self) -> None:
        cohort = self._table.cohorts.get(current_loop())
        task = None if cohort is None else cohort.current_task()
        if cohort is not None and task is not None and cohort.has(task):
            raise RuntimeError(
                f"this task holds a lock of region {self._table.name!r}, so nobody can write while "
                "it waits for a change: release the lock first"
            )

    # ---- fork, replacement, end ----------------------------------------------------

    def start_afresh(self) -> None:
        """Begin again, in a forked child, without a lookout."""
        self._lookouts = WeakValueDictionary()

    def begin_life(self) -> None:
        """Note that the table is about to lock an unrelated segment, with other generations."""
        self._lives += 1

    def move_on(self) -> None:
        """Tell all waiting tasks that their segment was replaced: the table locks another now."""
        lookouts, self._lookouts = self._lookouts, WeakValueDictionary()
        _close(lookouts, replaced)

    def close(self) -> None:
        """Tell all waiting tasks that the region is closed."""
        _close(self._lookouts, closed)


def _close(lookouts: WeakValueDictionary[object, Lookout], why: Ending) -> None:
    """Close all lookouts, each in its event loop. The waiting tasks get the exception of `why`."""
    for lookout in _alive(lookouts):
        close_in_its_thread(lookout, why)


def _alive(lookouts: WeakValueDictionary[object, Lookout]) -> list[Lookout]:
    """Return the lookouts of a dictionary to which other threads may add some meanwhile."""
    found = [reference() for reference in lookouts.valuerefs()]  # copied in one step
    return [lookout for lookout in found if lookout is not None]


def _check_since(since: int) -> int:
    if isinstance(since, bool) or not isinstance(since, int):
        raise TypeError(f"since must be a generation, an int, not {type(since).__name__}")
    return min(max(NEVER, since), LAST)
