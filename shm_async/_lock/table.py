"""The locks of one region in this process: its cohorts and seats, and which hold gets which."""

import errno
import sys
from collections.abc import Callable
from functools import partial
from sys import getrefcount
from threading import get_ident
from typing import Protocol
from weakref import ref

from .._failures import closed, replaced
from .._forks import importing
from .._native import SHRUNK
from .._terms import Terms
from ..errors import RegionClosedError, RegionReplacedError, RegionSizeError
from . import kin
from .cohort import Cohort
from .contract import Namesakes, Refusal, Way
from .deadlines import check_timeout
from .fast import ReadHold, WriteHold
from .labels import check_label
from .long_way import LabelledReadHold, LabelledWriteHold, LongWay
from .loops import NO_TASK, Loop, Task, adapt, current_loop
from .ofd import Ending, Opener, failure
from .recovery import RecoveryHold, RepairHold
from .seat import Pool, Seat
from .statistics import Ledger
from .transaction import LateHold, Transaction

__all__ = ["LockTable", "close_in_its_thread"]

#: Repairs for one request. After that many the next death is raised. Following a replacement has
#: no such limit: each one means that another process has made progress.
MAX_REPAIRS = 20


class Guest(Protocol):
    """An object that only the thread of its event loop may use."""

    @property
    def loop(self) -> Loop: ...
    @property
    def thread(self) -> int: ...
    def close(self, why: Ending, /) -> None: ...


class LockTable:
    """The locks of one region in this process. It knows no Region, only what it needs of one."""

    __slots__ = (
        "__weakref__",
        "cohort",
        "cohorts",
        "follow",
        "keeps_spares",
        "labelled",
        "ledger",
        "name",
        "namesakes",
        "opener",
        "pool",
        "spare_read",
        "spare_write",
        "terms",
    )

    name: str
    namesakes: Namesakes  # this table among them
    terms: Terms
    opener: Opener | None  # None once closed: it keeps the memory mapped
    cohort: Cohort  # of the loop that was the last to use us; NOWHERE if there is none
    cohorts: dict[object, Cohort]  # by event loop
    pool: Pool
    ledger: Ledger  # outlives close
    labelled: dict[int, "ref[LongWay]"]  # holds with a label that have the lock, by id
    spare_read: ReadHold | None  # handed out again when nobody else refers to it
    spare_write: WriteHold | None
    keeps_spares: bool  # False: a region that nobody refers to any more ends at once
    follow: Callable[[RegionReplacedError], None]  # goes over to another segment, or raises

    def __init__(
        self,
        name: str,
        terms: Terms,
        opener: Opener,
        follow: Callable[[RegionReplacedError], None],
        *,
        keeps_spares: bool,
    ) -> None:
        self.name = name
        self.terms = terms
        self.follow = follow
        self.keeps_spares = keeps_spares
        self._begin(opener)

    # ---- birth, fork, death ----------------------------------------------------

    def _begin(self, opener: Opener) -> None:
        """Begin with no lock held and no OFD open."""
        self.opener = opener
        self.ledger = opener.ledger
        self.pool = Pool(opener)
        self.namesakes = kin.namesakes(self, opener)
        self.labelled = {}
        self.cohorts = {}
        self.cohort = NOWHERE
        self.spare_read = self.spare_write = None

    def start_afresh(self) -> None:
        """Begin again, in a forked child."""
        assert self.opener is not None
        self.opener.ledger = Ledger(self.name, self.ledger.slow, self.ledger.slow_wait)
        self._begin(self.opener)

    def move_to(self, opener: Opener) -> None:
        """Lock another segment from now on. Who still waits for the old one's lock will be told."""
        pool, cohorts = self.pool, self.cohorts
        self._begin(opener)
        close_locks(pool, cohorts, replaced)

    def close(self) -> None:
        """Refuse all who wait or come. A lock that is held stays so until it is released."""
        pool, cohorts = self.pool, self.cohorts
        self.opener = self.spare_read = self.spare_write = None  # first: see _new_cohort
        self.cohorts, self.cohort = {}, NOWHERE
        close_locks(pool, cohorts, closed)

    # ---- handing out holds -------------------------------------------------------
    #
    # `region` is kept alive by its holds, and nothing else is done with it.

    def read_hold(self, timeout: float | None, fast_acquire: bool, region: object) -> ReadHold:
        """A new hold for reading. The next one is the same if nobody else refers to it by then."""
        if self.spare_read is None:  # a spare hold means that the region is usable
            self.usable()
        if timeout is not None:
            timeout = check_timeout(timeout)
        hold = ReadHold(self, timeout, fast_acquire, region)
        self.spare_read = hold if hold.plain and self.keeps_spares else None
        return hold

    def write_hold(self, timeout: float | None, fast_acquire: bool, region: object) -> WriteHold:
        """A new hold for writing. The next one is the same if nobody else refers to it by then."""
        if self.spare_write is None:  # a spare hold means that the region is usable
            self.check_writable()
        if timeout is not None:
            timeout = check_timeout(timeout)
        hold = WriteHold(self, timeout, fast_acquire, region)
        self.spare_write = hold if hold.plain and self.keeps_spares else None
        return hold

    def labelled_read_hold(
        self, timeout: float | None, fast_acquire: bool, region: object, label: str
    ) -> LabelledReadHold:
        """A new hold for reading, with a label."""
        self.usable()
        check_label(label)
        return LabelledReadHold(self, check_timeout(timeout), fast_acquire, region, label)

    def labelled_write_hold(
        self, timeout: float | None, fast_acquire: bool, region: object, label: str
    ) -> LabelledWriteHold:
        """A new hold for writing, with a label."""
        self.check_writable()
        check_label(label)
        return LabelledWriteHold(self, check_timeout(timeout), fast_acquire, region, label)

    def recovery_hold(
        self, timeout: float | None, fast_acquire: bool, region: object, label: str | None
    ) -> RecoveryHold:
        """A hold for writing, also where the last writer died."""
        self.check_writable()
        if label is not None:
            check_label(label)
        return RecoveryHold(self, check_timeout(timeout), fast_acquire, region, label)

    def transaction(
        self, timeout: float | None, fast_acquire: bool, region: object, label: str | None
    ) -> Transaction:
        """The write lock with a private copy."""
        self.check_writable()
        if label is not None:
            check_label(label)
        return Transaction(self, check_timeout(timeout), fast_acquire, region, label)

    def late_hold(self, timeout: float | None, region: object) -> LateHold:
        """A hold for writing that marks nothing before it commits."""
        self.check_writable()
        return LateHold(self, check_timeout(timeout), True, region)

    # ---- when a lock was refused -------------------------------------------------
    #
    # What can be put right is; then the lock is asked for again. If the terms are otherwise,
    # `mend` raises the error.

    async def mend(self, error: Refusal, repairs: int, way: Way) -> bool:
        """Have a dead writer's data repaired, or follow the region that replaced this one.

        Args:
            error: why the lock was refused.
            repairs: how often data were repaired already, for the same lock.
            way: how the caller waits.

        Returns:
            Whether it took a repair.
        """
        if isinstance(error, RegionReplacedError):
            self.follow(error)
            return False
        self.ledger.found_dead(error.pid, error.start, error.namespace)
        repair = self.terms.on_owner_death
        # a program that scribbles on the generation could keep us repairing past every deadline
        if isinstance(repair, str) or repairs >= MAX_REPAIRS:
            raise error
        self.check_writable()
        await self._repair_hold().acquire_and_repair(way.of_a_block(), repair)
        return True

    def _repair_hold(self) -> RepairHold:
        return RepairHold(self, None, True, None)

    # ---- what holds ask for ----------------------------------------------------

    def disown(self, hold: object) -> None:
        """Never hand this hold out again: its user may keep it while it is held."""
        if hold is self.spare_write:
            self.spare_write = None
        elif hold is self.spare_read:
            self.spare_read = None

    def join_cohort(self) -> tuple[Cohort, Task]:
        """The cohort of the running event loop, and the task that runs."""
        cohort = self.cohort
        opener = self.opener or self.usable()
        if cohort.thread == get_ident() and cohort.opener is opener:
            task = cohort.current_task()
            if task is not None:
                return cohort, task
        with importing:  # anyio imports its part for a second library here
            native = current_loop()
        known = self.cohorts.get(native)
        if known is None or known.opener is not opener:
            known = self._new_cohort(native)
        self.cohort = known
        task = known.current_task()
        return known, NO_TASK if task is None else task

    def _new_cohort(self, native: object) -> Cohort:
        self.forget_finished_loops()
        opener = self.usable()
        try:
            cohort = self.cohorts[native] = Cohort(opener, adapt(native))
        except OSError:
            if self.usable() is opener:
                raise
        else:
            if self.opener is opener:
                return cohort
            cohort.close()
        # closed meanwhile by another thread, or replaced, which did not see this one
        return self._new_cohort(native)

    def take_seat(self) -> Seat:
        """A seat for the calling thread, that holds nothing."""
        while True:
            pool = self.pool
            try:
                return pool.take()
            except (RegionClosedError, RegionReplacedError):
                if self.pool is pool:
                    raise  # else the region went over to what has replaced it

    def renew(self) -> None:
        """The locks turned out to be a parent's: make our own."""
        self.usable()
        self.start_afresh()

    def forget_finished_loops(self) -> None:
        """Let go of the cohorts whose loop is over. A lock that one of them has stays held."""
        for native, cohort in list(self.cohorts.items()):
            if cohort.loop.is_over():
                self.cohorts.pop(native, None)
                if self.cohort is cohort:
                    self.cohort = NOWHERE
                if cohort.conflicts(exclusive=True):  # known to its holds alone from now on
                    cohort.outlive_its_loop()
                else:
                    cohort.abandon()

    def usable(self) -> Opener:
        """What opens locks. RegionClosedError: the region is closed."""
        opener = self.opener
        if opener is None:
            raise closed(self.name)
        return opener

    def whole(self) -> Opener:
        """Return what opens locks, for a caller that reads the control page, if there is one.

        Raises:
            RegionClosedError: the region is closed. RegionSizeError: the object was truncated.
        """
        opener = self.usable()
        try:
            if opener.control is not None and not opener.segment.whole(opener.mapping.size):
                raise failure(SHRUNK, self.name)
        except (OSError, RegionSizeError):
            if self.usable() is opener:
                raise
            return self.whole()  # another thread has closed that segment, and uses a new one
        return opener

    def check_writable(self) -> None:
        """Raise PermissionError if the region was attached with ``readonly=True``."""
        self.usable()
        if self.terms.readonly:
            raise PermissionError(
                errno.EACCES, "attached with readonly=True: there are no write locks", self.name
            )


def close_locks(pool: Pool, cohorts: dict[object, Cohort], why: Ending) -> None:
    """Close what nobody holds now, and the rest when it is released."""
    for cohort in list(cohorts.values()):  # other threads may add theirs meanwhile
        close_in_its_thread(cohort, why)
    pool.close(why)


def close_in_its_thread(guest: Guest, why: Ending) -> None:
    """Close what lives in an event loop where that runs, or here if it is over."""
    if guest.thread != get_ident() and guest.loop.is_running():
        try:
            guest.loop.call_from_thread(partial(guest.close, why))
        except RuntimeError:  # the loop is over
            pass
        else:
            return
    guest.close(why)


# ---- handing a hold out again ----------------------------------------------------


def _refcount_when_alone() -> int:
    """What getrefcount says of an object that one attribute and one variable refer to."""

    class Holder:
        spare = object()

    spare = Holder.spare
    return getrefcount(spare)


#: A hold that nobody refers to but its region and the call that is about to return it.
#: Free-threaded builds count otherwise: there a hold is never handed out twice.
ALONE = _refcount_when_alone() if getattr(sys, "_is_gil_enabled", lambda: True)() else -1


# ---- no cohort, and forks ----------------------------------------------------------


NOWHERE = Cohort.__new__(Cohort)
NOWHERE.thread = 0  # no thread's ident
NOWHERE.idle = False
NOWHERE.readers = {}
