"""`with`: locks for threads and scripts, which block the calling thread.

Every hold has an OFD of its own, taken from a small pool and given back, so
threads exclude each other in the kernel.
"""

import errno
import time
from collections.abc import Callable
from typing import ClassVar

from .._failures import closed
from .._native import (
    INTERRUPTED,
    MARK,
    lock_downgrade,
    lock_give_up,
    lock_mode,
    lock_mode_here,
    lock_release,
    lock_spin_manner,
    lock_spin_shared,
    lock_try_manner,
    lock_try_nested,
    lock_try_shared,
    lock_upgrade,
    lock_wait,
)
from ..errors import LockTimeoutError
from .deadlines import Deadline
from .greenlets import sleep_is_shared, wait_in_greenlet
from .labels import LABEL
from .loops import Task
from .ofd import (
    BUSY,
    FORKED,
    LET_GO,
    Ending,
    LockCloser,
    LockHandle,
    Opener,
    failure,
    report_slow,
)
from .owners import HANDED_ON, Loose, this_thread
from .slow_wait import ThreadAlarm
from .stopped_loop import warn_if_a_loop_stops

#: Nanoseconds after which a blocked thread returns to Python. So it notices a close, or a signal
#: that came just before the system call, at most this late.
TICK = 100_000_000

#: The bits of `taker` that remain if no thread is known to hold the lock, see locking.h.
THREAD_ID = 0xFFFFFFFF

#: OFDs that are kept for the next holds: so many threads at once need not open one.
POOL_SIZE = 8


class Seat:
    """The OFD of one blocking hold."""

    __slots__ = (
        "acquirer",
        "closer",
        "extra",
        "handle",
        "pool",
        "readable",
        "tally",
        "task",
        "writable",
    )

    in_loop: ClassVar[bool] = False
    writer: ClassVar[None] = None  # a seat has one holder

    #: These make `__aexit__` call `leave`: a block's hold may be acquired again in another way.
    idle: ClassVar[bool] = False
    queue: ClassVar[bool] = True

    def __init__(self, opener: Opener, pool: "Pool") -> None:
        self.handle: LockHandle
        self.closer: LockCloser | None
        self.handle, self.closer = opener.open()
        self.tally = opener.ledger.open(self.handle)
        self.readable = opener.readable  # the data that the lock guards; a holder gets a slice
        self.writable = opener.writable
        self.pool = pool
        # for a lock that was acquired without a block:
        self.acquirer = this_thread()
        self.task: Loose | None = None  # the task that reads past its cohort's queue
        self.extra = False  # it will be closed, not kept, when it is given back

    def try_enter(
        self, exclusive: bool, _task: object = None, manner: int = MARK, *, spin: bool = False
    ) -> int:
        """Take the lock if that needs no waiting. Return 0, BUSY, FORKED or another -errno."""
        handle = self.handle
        code = lock_try_manner(handle, manner) if exclusive else lock_try_shared(handle)
        if code == BUSY and spin:
            code = lock_spin_manner(handle, manner) if exclusive else lock_spin_shared(handle)
        return code

    def loosen(self) -> None:
        """Note that the lock was acquired without a block, so any task or thread may get it."""
        self.acquirer = this_thread()
        self.task = None
        self.handle.taker &= THREAD_ID

    def try_beside(self, task: Loose) -> int:
        """Share the lock past the gate, for a task that may share it already: see owners.py."""
        code = self.try_nested()
        if code == 0:
            self.loosen()
            self.task = task
        return code

    def is_loose(self) -> bool:
        """Tell whether the held lock was acquired without a block."""
        return not self.handle.taker >> 32

    def may_read_here(self) -> bool:
        """Tell whether it reads, and the calling thread may own that: see owners.py."""
        if lock_mode(self.handle) != 1:
            return False
        if not self.is_loose():
            return lock_mode_here(self.handle) == 1
        return self.acquirer() is None or self.acquirer() is this_thread()()

    def task_may_read(self, task: Task) -> bool:
        """Tell whether it reads, and that task, which runs in this thread, may own that."""
        if self.task is not None and lock_mode(self.handle) == 1 and self.is_loose():
            return self.task.may_belong_to(task)
        return self.may_read_here()

    def try_nested(self) -> int:
        """Share the lock past the gate, for a thread that shares it already."""
        return lock_try_nested(self.handle)

    def try_upgrade(self, _task: object = None) -> int:
        """Turn a reader into the writer without waiting. Return 0, LET_GO or another -errno."""
        code = lock_upgrade(self.handle)
        return LET_GO if code == BUSY else code

    def downgrade(self) -> int:
        """Turn the writer into a reader. Return 0 or -errno."""
        code = lock_downgrade(self.handle)
        if code < 0:
            return code
        self.tally.joined += 1
        if code:
            report_slow(self.handle, self.pool.name)
        return 0

    def leave(self, _task: object) -> None:
        """Release the lock and go back to the pool."""
        code = FORKED
        try:
            code = lock_release(self.handle)
        finally:
            self.pool.free.append(self)
        if code or self.extra:
            self.left(code)

    def left(self, code: int) -> None:
        """Handle the unusual result of a release, with the seat back in the pool."""
        if self.extra:
            self.pool.tidy()
        if code > 0:
            report_slow(self.handle, self.pool.name)
        elif code not in (0, FORKED):
            raise failure(code, self.pool.name)

    def is_foreign(self) -> bool:
        """Return False: any thread may release it."""
        return False

    def inside(self, _task: object) -> int:
        """Return the number of locks that are held here."""
        return int(lock_mode(self.handle) > 0)

    def give_up(self, _task: object, _before: int) -> None:
        """End an attempt to acquire or convert: hold nothing."""
        self.abandon()

    def abandon(self) -> None:
        """Go back to the pool, whether the attempt to lock had succeeded or not."""
        lock_give_up(self.handle)
        self.pool.free.append(self)
        if self.extra:
            self.pool.tidy()

    def wait(
        self,
        exclusive: bool,
        deadline: Deadline,
        manner: int = MARK,
        beside: Callable[[bool], bool] | None = None,
    ) -> None:
        """Block until the lock is granted.

        It calls `beside` from time to time, to learn whether a lock for reading may belong to the
        caller. Then the caller must not wait behind a writer that waits for that lock.

        Raises:
            LockTimeoutError, RegionClosedError, RegionSizeError, OwnerDiedError, OSError; and
            the exceptions of signal handlers: nothing is held then. RuntimeError: the thread
            runs an event loop, in debug mode.
        """
        if deadline.timeout != 0:
            warn_if_a_loop_stops(self.pool.name)
        tally, start = self.tally, time.monotonic()
        tally.contended += 1
        tally.waiting += 1
        try:
            self._wait(exclusive, deadline, manner, beside)
        except BaseException:
            tally.cancelled += 1
            raise
        finally:
            tally.waiting -= 1
            tally.wait_ended(start, LABEL.get())

    def _wait(
        self,
        exclusive: bool,
        deadline: Deadline,
        manner: int,
        beside: Callable[[bool], bool] | None,
    ) -> None:
        pool = self.pool
        alarm = ThreadAlarm()
        wait = wait_in_greenlet if sleep_is_shared() else lock_wait
        code = BUSY
        late = time.monotonic() + HANDED_ON
        while code in (BUSY, INTERRUPTED):
            opener = pool.opener
            if opener is None:
                raise pool.ending(pool.name)
            slow = opener.ledger.slow_wait
            patience = alarm.look(slow, pool.name, exclusive=exclusive, tick=TICK)
            left = deadline.left()
            if left is not None:
                if left <= 0:
                    raise self._too_late(exclusive, deadline)
                patience = min(patience, left)
            code = wait(self.handle, exclusive, manner, patience)
            if code == INTERRUPTED and beside is not None and beside(time.monotonic() > late):
                lock_give_up(self.handle)  # the place at the gate
                code = lock_try_nested(self.handle)
        if code < 0:
            raise failure(code, pool.name, self.handle)

    def _too_late(self, exclusive: bool, deadline: Deadline) -> LockTimeoutError:
        return LockTimeoutError(
            errno.ETIMEDOUT,
            f"no {_kind(exclusive)} lock within {deadline.timeout} s: "
            "try again; region.holders() lists its holders",
            self.pool.name,
        )


class Pool:
    """The seats of one region: those in use, and those that are free."""

    __slots__ = ("ending", "free", "name", "opener", "seats")

    def __init__(self, opener: Opener) -> None:
        self.opener: Opener | None = opener  # None once closed
        self.ending: Ending = closed  # then: makes the error for waiters and newcomers
        self.name = opener.mapping.name
        self.free: list[Seat] = []  # append and pop are atomic: any thread may, without a lock
        self.seats: list[Seat] = []  # all that have an OFD

    def take(self) -> Seat:
        """Return a seat that holds nothing, for the calling thread."""
        try:
            return self.free.pop()
        except IndexError:
            pass
        opener = self.opener
        if opener is None:
            raise self.ending(self.name)
        try:
            seat = Seat(opener, self)
        except OSError:
            if self.opener is None:  # closed meanwhile, and the segment's descriptor with it
                raise self.ending(self.name) from None
            raise
        self.seats.append(seat)
        # counted afterwards, as other threads take seats at once, and one may close the pool
        seat.extra = len(self.seats) > POOL_SIZE or self.opener is None
        return seat

    def tidy(self) -> None:
        """Close the free seats that are marked `extra`. Several threads may do it at once."""
        kept = []
        while True:
            try:
                seat = self.free.pop()
            except IndexError:
                break
            if seat.extra:
                self.seats.remove(seat)
                seat.closer = None
            else:
                kept.append(seat)
        self.free.extend(kept)

    def held_here(self, *, exclusive_only: bool) -> bool:
        """Tell whether the calling thread holds a lock that it took through one of the seats."""
        least = 2 if exclusive_only else 1
        return any(lock_mode_here(seat.handle) >= least for seat in list(self.seats))

    def reads_here(self, but: Seat | None = None) -> bool:
        """Tell whether the calling thread reads through one of the seats other than `but`."""
        return any(lock_mode_here(seat.handle) == 1 for seat in list(self.seats) if seat is not but)

    def may_read_here(self) -> bool:
        """Tell whether the calling thread may own a lock for reading: see owners.py."""
        return any(seat.may_read_here() for seat in list(self.seats))

    def task_may_read(self, task: Task) -> bool:
        """Tell whether that task, which runs in this thread, may own a lock for reading."""
        return any(seat.task_may_read(task) for seat in list(self.seats))

    def reads_loosely(self) -> bool:
        """Tell whether a lock for reading may have been handed to any task or thread."""
        return any(lock_mode(seat.handle) == 1 and seat.is_loose() for seat in list(self.seats))

    def close(self, why: Ending) -> None:
        """Close the free seats now, and each of the others when it is given back."""
        self.ending = why
        self.opener = None
        for seat in list(self.seats):
            seat.extra = True
        self.tidy()


def _kind(exclusive: bool) -> str:
    return "write" if exclusive else "read"
