"""The ways in which a caller waits for a lock: in its event loop, in its thread, or not at all."""

from collections.abc import Awaitable
from functools import partial

from .._failures import would_block
from .._native import lock_mode
from . import conversion, kin, later
from .cohort import Cohort
from .contract import Attempt
from .deadlines import Deadline
from .done import DONE
from .greenlets import sleep_is_shared
from .loops import NO_TASK, Task
from .ofd import BUSY, EXCLUSIVE, FORKED, LET_GO, failure
from .owners import HANDED_ON, Loose, owner_of
from .seat import Seat

__all__ = [
    "AT_ONCE_IN_LOOP",
    "IN_LOOP",
    "IN_LOOP_LOOSELY",
    "InLoop",
    "InThread",
    "reads_beside",
]


# ---- in an event loop ------------------------------------------------------------


class InLoop:
    """The caller waits in the running event loop, in the queue of its cohort."""

    __slots__ = ("_loose", "_may_wait", "_timeout", "_yields")

    def __init__(
        self,
        *,
        loose: bool = False,
        may_wait: bool = True,
        yields: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._loose = loose  # without a block, so that any task may get the lock
        self._may_wait = may_wait
        self._yields = yields  # fast_acquire=False
        self._timeout = timeout  # of the hold; a mistake in an event loop

    def of_a_block(self) -> "InLoop":
        """Return the same way, for a lock that the task keeps until a block ends."""
        return InLoop(may_wait=self._may_wait)

    async def begin(self) -> None:
        """Refuse a timeout, which an event loop does not support.

        The checkpoint of ``fast_acquire=False`` comes after the grant, so that tasks stand in
        the queue in the order in which they came.
        """
        if self._timeout is not None:
            raise TypeError(
                "timeout= is for `with`; in a coroutine put `async with` inside "
                "anyio.fail_after(seconds) or asyncio.timeout(seconds)"
            )
        if self._yields:
            await later.lowlevel.checkpoint_if_cancelled()

    def enter(self, attempt: Attempt) -> Awaitable[None]:
        """Enter with the cohort, or beside it if a reader may; else wait in the queue.

        Whether that needs a wait is known at once, so there is no coroutine between the caller
        and the queue.
        """
        code, cohort = self._try(attempt)
        table = attempt.table
        if (
            code == BUSY
            and not attempt.exclusive
            and kin.task_may_read(table, cohort, attempt.task)
        ):
            code, cohort = self._try_beside(attempt, cohort)
        if code == BUSY:
            return self._waiting(attempt, cohort)
        if code:
            raise _failure(code, attempt)
        return later.lowlevel.cancel_shielded_checkpoint() if self._yields else DONE

    def _try(self, attempt: Attempt) -> tuple[int, Cohort]:
        cohort = self._join(attempt)
        if not (cohort.idle or cohort.readers):
            return BUSY, cohort
        code = cohort.try_enter(
            attempt.exclusive, attempt.task, attempt.manner, spin=self._may_wait
        )
        if code == FORKED:  # it is a parent's: make our own
            attempt.table.renew()
            cohort = self._join(attempt)
            code = cohort.try_enter(attempt.exclusive, attempt.task, attempt.manner)
        return code, cohort

    def _join(self, attempt: Attempt) -> Cohort:
        cohort, task = attempt.table.join_cohort()
        attempt.place = cohort
        attempt.task = Loose(task, cohort.loop) if self._loose else task
        attempt.before = cohort.inside(attempt.task)
        return cohort

    def _try_beside(self, attempt: Attempt, cohort: Cohort) -> tuple[int, Cohort]:
        """Try to read beside a lock for reading that may be ours, past a waiting writer."""
        code = cohort.try_nested(attempt.task)
        if code != BUSY:
            return code, cohort
        attempt.place = seat = attempt.table.take_seat()  # past others in the cohort's queue
        code = seat.try_beside(Loose(owner_of(attempt.task), cohort.loop))
        if code == 0:
            attempt.beside = True
            return code, cohort
        attempt.undo()
        return self._try(attempt)

    def _waiting(self, attempt: Attempt, cohort: Cohort) -> Awaitable[None]:
        if not self._may_wait:
            raise would_block(attempt.table.name, attempt.exclusive)
        if not attempt.table.namesakes.alone():
            kin.refuse_task_to_wait_for_itself(
                attempt.table, cohort, attempt.exclusive, attempt.task
            )
        if not attempt.exclusive and kin.others_read_loosely(attempt.table, cohort):
            return self._queue_or_beside(attempt, cohort)
        return cohort.enter(attempt.exclusive, attempt.task, attempt.manner)

    async def _queue_or_beside(self, attempt: Attempt, cohort: Cohort) -> None:
        """Wait in the queue; after HANDED_ON read beside a lock that this task may have got."""
        with later.move_on_after(HANDED_ON):
            await cohort.enter(False, attempt.task, attempt.manner)
            return
        code, cohort = self._try_beside(attempt, cohort)
        if code == BUSY:
            await cohort.enter(False, attempt.task, attempt.manner)
        elif code:
            raise _failure(code, attempt)

    # ---- upgrade ----------------------------------------------------------------

    def check_upgrade(self, attempt: Attempt) -> None:
        """Raise RuntimeError if it does not read in this loop, or would wait for itself."""
        table = attempt.table
        if attempt.beside:
            cohort, task = table.join_cohort()
            waits_for_itself = cohort.has(task)
        else:
            cohort = _cohort_of(attempt)
            task = cohort.current_task()
            waits_for_itself = _reads_twice(cohort, task, attempt.task)
        if waits_for_itself or kin.task_reads_elsewhere(table, cohort, task):
            raise _would_wait_for_itself(table.name)

    async def upgrade(self, attempt: Attempt) -> bool:
        """Turn the reader into the writer, in its turn."""
        if not attempt.beside:
            return await conversion.upgrade(_cohort_of(attempt), attempt.task)
        seat = attempt.where()
        attempt.place, task = attempt.table.join_cohort()
        attempt.task, attempt.before = Loose(task, attempt.place.loop), 0
        attempt.beside = False
        seat.leave(None)
        await self.write(attempt)
        return False

    async def write(self, attempt: Attempt) -> None:
        """Get the write lock in the queue of the cohort."""
        cohort = attempt.place
        assert isinstance(cohort, Cohort)
        code = cohort.try_enter(True, attempt.task, attempt.manner)
        if code == BUSY:
            await cohort.enter(True, attempt.task)
        elif code:
            raise _failure(code, attempt)


def _cohort_of(attempt: Attempt) -> Cohort:
    """Return the cohort whose reader the caller upgrades."""
    at, hold = attempt.place, attempt.hold
    if not isinstance(at, Cohort):
        raise _elsewhere(hold, "a thread: use upgrade_blocking()")
    if at.writer is not None:
        raise RuntimeError(f"{hold!r} has the write lock already")
    if at.loop.is_over():
        raise RuntimeError(f"the event loop of {hold!r} has ended: release it")
    if at.current_task() is None:
        raise _elsewhere(hold, "another event loop: convert it there")
    return at


def _reads_twice(cohort: Cohort, task: Task, key: Task) -> bool:
    """Tell whether the running task reads by another hold than the one counted under `key`."""
    others = cohort.readers[key] - 1 if key is not NO_TASK else 0
    return bool(others) or (task is not key and task in cohort.readers)


# ---- in a thread -----------------------------------------------------------------


class InThread:
    """The caller blocks its thread until the deadline. Its coroutines never suspend."""

    __slots__ = ("_deadline", "_loose", "_may_wait")

    def __init__(self, deadline: Deadline, *, loose: bool = False, may_wait: bool = True) -> None:
        self._deadline = deadline
        self._loose = loose  # without a block, so that any thread may get the lock
        self._may_wait = may_wait

    def of_a_block(self) -> "InThread":
        """Return the same way, for a lock that the thread keeps until a block ends."""
        return InThread(self._deadline, may_wait=self._may_wait)

    async def begin(self) -> None:
        """Do nothing."""

    async def enter(self, attempt: Attempt) -> None:
        """Enter on a seat; else block the thread."""
        code, seat = self._try(attempt)
        if code == BUSY and not attempt.exclusive and kin.may_read_here(attempt.table):
            code = seat.try_nested()
        if code == BUSY:
            self._wait(attempt, seat)
        elif code:
            raise _failure(code, attempt)
        if self._loose:
            seat.loosen()

    def _try(self, attempt: Attempt) -> tuple[int, Seat]:
        attempt.place = seat = attempt.table.take_seat()
        code = seat.try_enter(attempt.exclusive, None, attempt.manner, spin=self._may_wait)
        if code == FORKED:  # it is a parent's: make our own
            attempt.table.renew()
            attempt.place = seat = attempt.table.take_seat()
            code = seat.try_enter(attempt.exclusive, None, attempt.manner)
        return code, seat

    def _wait(self, attempt: Attempt, seat: Seat) -> None:
        table = attempt.table
        if not self._may_wait:
            raise would_block(table.name, attempt.exclusive)
        kin.forget_finished_loops(table)
        if self._deadline.timeout is None:
            kin.refuse_to_wait_for_oneself(table, attempt.exclusive)
        beside = None if attempt.exclusive else partial(kin.reads_loosely, table)
        seat.wait(attempt.exclusive, self._deadline, attempt.manner, beside)

    # ---- upgrade ----------------------------------------------------------------

    def check_upgrade(self, attempt: Attempt) -> None:
        """Raise RuntimeError if it does not read on a seat, or would wait for itself."""
        seat, table = _seat_of(attempt), attempt.table
        endless = self._deadline.timeout is None
        if endless and kin.reads_here(table, but=seat) and not sleep_is_shared():
            raise _would_wait_for_itself(table.name)

    async def upgrade(self, attempt: Attempt) -> bool:
        """Turn the reader into the writer."""
        seat = _seat_of(attempt)
        self._loose = seat.is_loose()
        code = seat.try_upgrade()
        if code == LET_GO:
            await self.write(attempt)
        elif code:
            raise _failure(code, attempt)
        return code == 0

    async def write(self, attempt: Attempt) -> None:
        """Block the thread for the write lock."""
        seat = attempt.place
        assert isinstance(seat, Seat)
        seat.wait(True, self._deadline)
        if self._loose:
            seat.loosen()


def _seat_of(attempt: Attempt) -> Seat:
    """Return the seat whose reader the caller upgrades."""
    at, hold = attempt.place, attempt.hold
    if not isinstance(at, Seat):
        raise _elsewhere(hold, "an event loop: await upgrade()")
    if lock_mode(at.handle) == EXCLUSIVE:
        raise RuntimeError(f"{hold!r} has the write lock already")
    return at


# ---- both ------------------------------------------------------------------------


def reads_beside(attempt: Attempt) -> bool:
    """Tell whether another block of this thread or task reads, so that an upgrade cannot work."""
    if isinstance(attempt.place, Seat):
        return kin.reads_here(attempt.table, but=_seat_of(attempt))
    cohort = _cohort_of(attempt)
    if kin.task_reads_elsewhere(attempt.table, cohort, cohort.current_task()):
        return True
    return kin.thread_reads(attempt.table)


def _failure(code: int, attempt: Attempt) -> Exception:
    return failure(code, attempt.table.name, attempt.where().handle)


def _elsewhere(hold: object, where: str) -> RuntimeError:
    return RuntimeError(f"{hold!r} belongs to {where}")


def _would_wait_for_itself(name: str) -> RuntimeError:
    return RuntimeError(
        f"another read lock of region {name!r} is held here, and an upgrade of "
        "this one would wait for it for ever: release the other one first"
    )


#: The ways of `async with` for a plain hold, of `acquire`, and of `acquire_nowait`.
IN_LOOP = InLoop()
IN_LOOP_LOOSELY = InLoop(loose=True)
AT_ONCE_IN_LOOP = InLoop(loose=True, may_wait=False)
