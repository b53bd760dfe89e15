"""The locks of one region: which holds, cohorts and seats it has, and who gets which."""

import errno
import sys
from sys import getrefcount
from threading import get_ident

from .asynclock import Cohort
from .errors import OwnerDiedError
from .filelock import Opener, closed
from .guards import ReadHold, WriteHold
from .hold import Hold
from .loops import NO_TASK, Task, adapt, current_loop
from .recovery import OnOwnerDeath, RecoveryHold, Repair
from .statistics import Ledger, Statistics
from .synclock import Pool, Seat, check_timeout
from .transaction import Transaction

__all__ = ["Locks"]

#: Repairs for one lock that is asked for; the next death found is raised.
MAX_REPAIRS = 8


class Locks:
    """What a Region is to those who lock it."""

    __slots__ = (
        "_cohort",
        "_cohorts",
        "_ledger",
        "_name",
        "_on_owner_death",
        "_opener",
        "_pool",
        "_readonly",
        "_spare_read",
        "_spare_write",
    )

    _name: str
    _readonly: bool
    _on_owner_death: OnOwnerDeath
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
        hold = ReadHold(self, self._usable().readable, check_timeout(timeout), fast_acquire)
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
            return RecoveryHold(self, self._writable(), check_timeout(timeout), fast_acquire)
        hold = self._spare_write
        if timeout is None and fast_acquire and getrefcount(hold) == ALONE:
            return hold  # type: ignore[return-value]  # None is never alone
        hold = WriteHold(self, self._writable(), check_timeout(timeout), fast_acquire)
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
        return Transaction(self, self._writable(), check_timeout(timeout), fast_acquire)

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

    def _have_locks(self, opener: Opener, on_owner_death: OnOwnerDeath) -> None:
        self._opener = opener
        self._on_owner_death = on_owner_death
        opener.ignores_death = on_owner_death == "ignore"
        self._ledger = opener.ledger
        self._spare_read = None
        self._spare_write = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Begin, or begin again in a forked child, with no lock held and no OFD open."""
        assert self._opener is not None
        self._ledger = self._opener.ledger = Ledger(self._ledger.slow)
        self._pool = Pool(self._opener)
        self._cohorts = {}
        self._cohort = NOWHERE

    def _end_locks(self) -> None:
        cohorts, self._cohorts, self._cohort = self._cohorts, {}, NOWHERE
        for cohort in cohorts.values():
            _close_in_its_thread(cohort)
        self._pool.close()
        self._opener = self._spare_read = self._spare_write = None

    # ---- when a writer has died --------------------------------------------------

    async def _repair(self, error: OwnerDiedError, repairs: int) -> None:
        """Have the data put right by who was named for that; nobody: raise the error.

        Args:
            error: the death that was found.
            repairs: how many there have been for the same lock.
        """
        repair = self._whose_turn(error, repairs)
        hold = self._recovery()
        await hold.acquire()
        hold.repair(repair)

    def _repair_blocking(
        self, error: OwnerDiedError, repairs: int, timeout: float | None, *, may_wait: bool = True
    ) -> None:
        repair = self._whose_turn(error, repairs)
        hold = self._recovery()
        hold._acquire_blocking(timeout, may_wait=may_wait)
        hold.repair(repair)

    def _repair_nowait(self, error: OwnerDiedError, repairs: int) -> None:
        repair = self._whose_turn(error, repairs)
        hold = self._recovery()
        hold.acquire_nowait()
        hold.repair(repair)

    def _whose_turn(self, error: OwnerDiedError, repairs: int) -> Repair:
        """The function that repairs, unless that is in vain: then raise the error.

        Whoever scribbles on the generation could keep us repairing for ever, past every deadline.
        """
        if isinstance(self._on_owner_death, str) or repairs >= MAX_REPAIRS:
            raise error
        return self._on_owner_death

    def _recovery(self) -> RecoveryHold:
        return RecoveryHold(self, self._writable(), None, True)

    # ---- what holds ask for ----------------------------------------------------

    def _disown(self, hold: Hold) -> None:
        """Never hand this hold out again: its user may keep it while it is held."""
        if hold is self._spare_write:
            self._spare_write = None
        elif hold is self._spare_read:
            self._spare_read = None

    def _join_cohort(self) -> tuple[Cohort, Task]:
        """The cohort of the running event loop, and the task that runs."""
        cohort = self._cohort
        if cohort.thread == get_ident() and (task := cohort.current_task()) is not None:
            return cohort, task
        native = current_loop()
        known = self._cohorts.get(native)
        cohort = self._cohort = known if known is not None else self._new_cohort(native)
        task = cohort.current_task()
        return cohort, NO_TASK if task is None else task

    def _new_cohort(self, native: object) -> Cohort:
        self._forget_finished_loops()
        try:
            cohort = self._cohorts[native] = Cohort(self._usable(), adapt(native))
        except OSError:
            self._usable()  # closed meanwhile: there was nothing left to open it from
            raise
        if self._opener is None:  # closed meanwhile, and close() did not see this one
            cohort.close()
            raise closed(self._name)
        return cohort

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

    def _writable(self) -> memoryview:
        """What a writer gets a slice of."""
        whole = self._usable().writable
        if self._readonly:
            raise PermissionError(
                errno.EACCES, "attached with readonly=True: there are no write locks", self._name
            )
        return whole


def _close_in_its_thread(cohort: Cohort) -> None:
    """Close a cohort where its loop runs, or here if that loop is over."""
    if cohort.thread != get_ident() and cohort.loop.is_running():
        try:
            cohort.loop.call_from_thread(cohort.close)
        except RuntimeError:  # the loop is over
            pass
        else:
            return
    cohort.close()


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
