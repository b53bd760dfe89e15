"""The locks of one region: which holds, cohorts and seats it has, and who gets which."""

import errno
import sys
from functools import partial
from sys import getrefcount
from threading import get_ident
from typing import Protocol, TypeAlias

from .asynclock import Cohort
from .errors import OwnerDiedError, RegionClosedError, RegionReplacedError
from .filelock import Ending, Opener, closed
from .guards import ReadHold, WriteHold
from .hold import Hold
from .loops import NO_TASK, Loop, Task, adapt, current_loop
from .recovery import RecoveryHold
from .statistics import Ledger, Statistics
from .synclock import Pool, Seat, check_timeout
from .terms import Terms
from .transaction import Transaction

__all__ = ["Locks", "close_in_its_thread", "close_locks"]

#: What a lock is refused for, and may be put right.
Refusal: TypeAlias = OwnerDiedError | RegionReplacedError

#: Repairs for one lock that is asked for; the death that is found then is raised. One that was
#: replaced is gone after as often as it takes: each time somebody else has got something done.
MAX_REPAIRS = 20


class InLoop(Protocol):
    """What is to be used in the thread of its event loop only."""

    @property
    def loop(self) -> Loop: ...
    @property
    def thread(self) -> int: ...
    def close(self, why: Ending, /) -> None: ...


class Locks:
    """What a Region is to those who lock it."""

    __slots__ = (
        "_cohort",
        "_cohorts",
        "_ledger",
        "_name",
        "_opener",
        "_pool",
        "_spare_read",
        "_spare_write",
        "_terms",
    )

    _name: str
    _terms: Terms
    _opener: Opener | None  # None once closed: it keeps the memory mapped
    _cohort: Cohort  # of the loop that was the last to use us; NOWHERE if there is none
    _cohorts: dict[object, Cohort]  # by event loop
    _pool: Pool
    _ledger: Ledger  # outlives close
    _spare_read: ReadHold | None  # handed out again when nobody else refers to it
    _spare_write: WriteHold | None

    # ---- what users call -------------------------------------------------------

    def read_lock(self, *, timeout: float | None = None, fast_acquire: bool = True) -> ReadHold:
        """A read lock, to be used with ``async with`` or ``with``: many readers, no writer.

        It is shared with all who are attached, in any process, and with programs
        that use flock(2) on the object.

        Args:
            timeout: seconds after which ``with`` gives up (LockTimeoutError).
            fast_acquire: False makes ``async with`` yield once even if the lock is free.

        Raises:
            RegionClosedError: here or when it is acquired.
            OwnerDiedError: when it is acquired, and the last writer died inside.
            ValueError, TypeError: `timeout` is no number of seconds.
        """
        hold = self._spare_read
        if timeout is None and fast_acquire and getrefcount(hold) == ALONE:
            return hold  # type: ignore[return-value]  # None is never alone
        self._usable()
        hold = ReadHold(self, check_timeout(timeout), fast_acquire)
        self._spare_read = hold if hold._plain else None
        return hold

    def write_lock(
        self, *, timeout: float | None = None, fast_acquire: bool = True, recover: bool = False
    ) -> WriteHold:
        """The write lock, to be used with ``async with`` or ``with``: nobody else is inside.

        Errors are those of `read_lock`, and one more.

        Args:
            timeout: seconds after which ``with`` gives up (LockTimeoutError).
            fast_acquire: False makes ``async with`` yield once even if the lock is free.
            recover: take the lock also if the last writer died inside. Then the hold's
                `owner_died` is True, and only a clean end of its block makes the region
                sound again; after an exception the next one is told of the death, too.

        Raises:
            PermissionError: the region was attached with ``readonly=True``.
        """
        if recover:
            self._check_writable()
            return RecoveryHold(self, check_timeout(timeout), fast_acquire)
        hold = self._spare_write
        if timeout is None and fast_acquire and getrefcount(hold) == ALONE:
            return hold  # type: ignore[return-value]  # None is never alone
        self._check_writable()
        hold = WriteHold(self, check_timeout(timeout), fast_acquire)
        self._spare_write = hold if hold._plain else None
        return hold

    def transaction(
        self, *, timeout: float | None = None, fast_acquire: bool = True
    ) -> Transaction:
        """The write lock with a private copy, to be used with ``async with`` or ``with``.

        The block writes to the copy; its clean end copies back what changed. After an
        exception, a cancellation or a crash in the block the region is as it was.
        Snapshots see it as it was until then, too; `generation` moves only at the end.

        Arguments and errors are those of `write_lock`.
        """
        self._check_writable()
        return Transaction(self, check_timeout(timeout), fast_acquire)

    def statistics(self) -> Statistics:
        """What the locks of this region have done in this process since it was opened or forked.

        Never blocks; works on a closed region, too. A moment's picture: other threads go on.
        """
        return self._ledger.sum()

    @property
    def slow_hold(self) -> float | None:
        """Seconds; a lock of ours that is held for longer is logged when it ends. None: never.

        It is a warning of the logger "shm_async", which names the line that ended the hold.
        """
        return self._ledger.slow

    @slow_hold.setter
    def slow_hold(self, seconds: float | None) -> None:
        self._ledger.set_slow(check_timeout(seconds))

    # ---- birth, fork, death ----------------------------------------------------

    def _have_locks(self, opener: Opener) -> None:
        """Begin with no lock held and no OFD open."""
        self._opener = opener
        self._ledger = opener.ledger
        self._spare_read = None
        self._spare_write = None
        self._pool = Pool(opener)
        self._cohorts = {}
        self._cohort = NOWHERE

    def _start_afresh(self) -> None:
        """Begin again, in a forked child."""
        assert self._opener is not None
        self._opener.ledger = Ledger(self._ledger.slow)
        self._have_locks(self._opener)

    def _end_locks(self) -> None:
        pool, cohorts = self._pool, self._cohorts
        self._cohorts, self._cohort = {}, NOWHERE
        close_locks(pool, cohorts, closed)
        self._opener = self._spare_read = self._spare_write = None

    # ---- when a lock was refused -------------------------------------------------
    #
    # Three ways to put right what can be: then the lock is asked for again. If the terms are
    # otherwise, they raise the error.

    async def _mend(self, error: Refusal, repairs: int) -> bool:
        """Have a dead writer's data repaired, or go over to what has replaced the region.

        Args:
            error: why it was refused.
            repairs: how often data were repaired already, for the same lock.

        Returns:
            Whether it took a repair.
        """
        hold = self._recovery(error, repairs)
        if hold is not None:
            await hold.acquire()
            hold.repair()
        return hold is not None

    def _mend_blocking(
        self, error: Refusal, repairs: int, timeout: float | None, *, may_wait: bool = True
    ) -> bool:
        hold = self._recovery(error, repairs)
        if hold is not None:
            hold._acquire_blocking(timeout, may_wait=may_wait)
            hold.repair()
        return hold is not None

    def _mend_nowait(self, error: Refusal, repairs: int) -> bool:
        hold = self._recovery(error, repairs)
        if hold is not None:
            hold.acquire_nowait()
            hold.repair()
        return hold is not None

    def _recovery(self, error: Refusal, repairs: int) -> RecoveryHold | None:
        """The hold to repair the data with; None: that was not what it took.

        Whoever scribbles on the generation could keep us repairing for ever, past every deadline.
        """
        if isinstance(error, RegionReplacedError):
            self._follow(error)
            return None
        if isinstance(self._terms.on_owner_death, str) or repairs >= MAX_REPAIRS:
            raise error
        self._check_writable()
        return RecoveryHold(self, None, True)

    def _follow(self, error: RegionReplacedError) -> None:
        """Go over to what has replaced the region, if it was asked for: see resize.py."""
        raise error

    # ---- what holds ask for ----------------------------------------------------

    def _disown(self, hold: Hold) -> None:
        """Never hand this hold out again: its user may keep it while it is held."""
        if hold is self._spare_write:
            self._spare_write = None
        elif hold is self._spare_read:
            self._spare_read = None

    def _join_cohort(self) -> tuple[Cohort, Task]:
        """The cohort of the running event loop, and the task that runs."""
        opener = self._usable()
        cohort = self._cohort
        if cohort.thread == get_ident() and cohort.opener is opener:
            task = cohort.current_task()
            if task is not None:
                return cohort, task
        native = current_loop()
        known = self._cohorts.get(native)
        if known is None or known.opener is not opener:
            known = self._new_cohort(native)
        self._cohort = known
        task = known.current_task()
        return known, NO_TASK if task is None else task

    def _new_cohort(self, native: object) -> Cohort:
        self._forget_finished_loops()
        opener = self._usable()
        try:
            cohort = self._cohorts[native] = Cohort(opener, adapt(native))
        except OSError:
            if self._usable() is opener:
                raise
        else:
            if self._opener is opener:
                return cohort
            cohort.close()
        # closed meanwhile by another thread, or replaced, which did not see this one
        return self._new_cohort(native)

    def _take_seat(self) -> Seat:
        """A seat for the calling thread, that holds nothing."""
        while True:
            pool = self._pool
            try:
                return pool.take()
            except (RegionClosedError, RegionReplacedError):
                if self._pool is pool:
                    raise  # else the region went over to what has replaced it

    def _renew(self) -> None:
        """The locks turned out to be a parent's: make our own."""
        self._usable()
        self._start_afresh()

    def _forget_finished_loops(self) -> None:
        for native, cohort in list(self._cohorts.items()):
            if cohort.loop.is_over():
                self._cohorts.pop(native, None)
                cohort.abandon()

    def _reads_here(self, but: Seat | None = None) -> bool:
        """Whether this thread, or its event loop, has a lock that a reader may share, but that."""
        here = get_ident()
        return self._pool.reads_here(but) or any(
            cohort.thread == here and cohort.readers for cohort in list(self._cohorts.values())
        )

    def _refuse_to_wait_for_oneself(self, exclusive: bool) -> None:
        """Raise RuntimeError if the lock is held by this very thread, which is about to block."""
        here = get_ident()
        self._forget_finished_loops()
        if self._pool.held_here(exclusive_only=not exclusive):
            holder = "this thread holds"
        elif any(
            cohort.thread == here and cohort.conflicts(exclusive)
            for cohort in list(self._cohorts.values())
        ):
            holder = "a task of this thread's event loop holds"
        else:
            return
        raise RuntimeError(
            f"{holder} a lock of region {self._name!r}, and blocking the thread would wait "
            "for it for ever: release it first, or use `async with`"
        )

    def _usable(self) -> Opener:
        opener = self._opener
        if opener is None:
            raise closed(self._name)
        return opener

    def _check_writable(self) -> None:
        self._usable()
        if self._terms.readonly:
            raise PermissionError(
                errno.EACCES, "attached with readonly=True: there are no write locks", self._name
            )


def close_locks(pool: Pool, cohorts: dict[object, Cohort], why: Ending) -> None:
    """Close what nobody holds now, and the rest when it is released."""
    for cohort in cohorts.values():
        close_in_its_thread(cohort, why)
    pool.close(why)


def close_in_its_thread(guest: InLoop, why: Ending) -> None:
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
NOWHERE.opener = None  # type: ignore[assignment]  # nobody's
NOWHERE.readers = {}
