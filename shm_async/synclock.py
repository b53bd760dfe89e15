"""`with`: locks for threads and scripts, which block the calling thread.

Every hold has an OFD of its own, taken from a small pool and given back, so
threads exclude each other in the kernel.
"""

import errno
import math
import time

from ._native import (
    INTERRUPTED,
    MARK,
    lock_downgrade,
    lock_give_up,
    lock_mode_here,
    lock_release,
    lock_try_manner,
    lock_try_nested,
    lock_try_shared,
    lock_upgrade,
    lock_wait,
)
from .errors import LockTimeoutError
from .filelock import (
    BUSY,
    FORKED,
    Ending,
    LockCloser,
    LockHandle,
    Opener,
    closed,
    failure,
    report_slow,
)

#: Nanoseconds after which a blocked thread returns to Python to look around: a signal
#: that came just before the system call, or a close, is noticed this late at the most.
TICK = 100_000_000

#: Seconds that nobody lives to see the end of; more would overflow a clock.
FOR_EVER = 1e9

#: OFDs that are kept for the next hold: as many threads at once open none.
POOL_SIZE = 8


class Seat:
    """The OFD of one blocking hold."""

    __slots__ = ("closer", "extra", "handle", "pool", "readable", "tally", "writable")

    def __init__(self, opener: Opener, pool: "Pool") -> None:
        self.handle: LockHandle
        self.closer: LockCloser | None
        self.handle, self.closer = opener.open()
        self.tally = opener.ledger.open(self.handle)
        self.readable = opener.readable  # the data that the lock guards; who is inside gets
        self.writable = opener.writable  # a slice of it
        self.pool = pool
        self.extra = False  # to be closed, not kept, when it is given back

    def try_enter(self, exclusive: bool, manner: int = MARK) -> int:
        """Take the lock if that needs no waiting. Returns 0, BUSY, FORKED or another -errno."""
        return lock_try_manner(self.handle, manner) if exclusive else lock_try_shared(self.handle)

    def try_nested(self) -> int:
        """Share the lock past the gate, for a thread that shares it already."""
        return lock_try_nested(self.handle)

    def try_upgrade(self) -> int:
        """Turn a reader into the writer without waiting. BUSY: it reads no more, either."""
        return lock_upgrade(self.handle)

    def downgrade(self) -> int:
        """Turn the writer into a reader. Returns 0 or -errno."""
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
        """The lock was released with that result, and we are back in the pool: not the usual."""
        if self.extra:
            self.pool.tidy()
        if code > 0:
            report_slow(self.handle, self.pool.name)
        elif code not in (0, FORKED):
            raise failure(code, self.pool.name)

    def abandon(self) -> None:
        """Go back to the pool, whether the attempt to lock had succeeded or not."""
        lock_give_up(self.handle)
        self.pool.free.append(self)
        if self.extra:
            self.pool.tidy()

    def wait(self, exclusive: bool, timeout: float | None, manner: int = MARK) -> None:
        """Block until the lock is granted.

        Raises:
            LockTimeoutError, RegionClosedError, RegionSizeError, OwnerDiedError, OSError; and
            what a signal handler raises: nothing is held then.
        """
        start = self.tally.wait_begins()
        try:
            self._wait(exclusive, timeout, manner)
        except BaseException:
            self.tally.cancelled += 1
            raise
        finally:
            self.tally.wait_ended(start)

    def _wait(self, exclusive: bool, timeout: float | None, manner: int) -> None:
        pool = self.pool
        deadline = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        code = BUSY
        while code in (BUSY, INTERRUPTED):
            if pool.opener is None:
                raise pool.ending(pool.name)
            patience = TICK
            if deadline is not None:
                patience = min(TICK, deadline - time.monotonic_ns())
                if patience <= 0:
                    raise LockTimeoutError(
                        errno.ETIMEDOUT,
                        f"no {_kind(exclusive)} lock within {timeout} s: "
                        "ask again; region.holders() tells who holds it",
                        pool.name,
                    )
            code = lock_wait(self.handle, exclusive, manner, patience)
        if code < 0:
            raise failure(code, pool.name, self.handle)


class Pool:
    """The seats of one region: those in use, and those that are free."""

    __slots__ = ("ending", "free", "name", "opener", "seats")

    def __init__(self, opener: Opener) -> None:
        self.opener: Opener | None = opener  # None once closed
        self.ending: Ending = closed  # what those are told then who wait or come
        self.name = opener.mapping.name
        self.free: list[Seat] = []  # append and pop are atomic: any thread may, without a lock
        self.seats: list[Seat] = []  # all that have an OFD

    def take(self) -> Seat:
        """A seat that holds nothing, for the calling thread."""
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
            if self.opener is None:  # closed meanwhile: there was nothing left to open it from
                raise self.ending(self.name) from None
            raise
        self.seats.append(seat)
        # counted after the fact, as other threads do the same; or closed meanwhile by one
        seat.extra = len(self.seats) > POOL_SIZE or self.opener is None
        return seat

    def tidy(self) -> None:
        """Close the free seats that are not to be kept."""
        kept = []
        while self.free:
            seat = self.free.pop()
            if seat.extra:
                self.seats.remove(seat)
                seat.closer = None
            else:
                kept.append(seat)
        self.free.extend(kept)

    def held_here(self, *, exclusive_only: bool) -> bool:
        """Whether the calling thread took a lock through one of the seats, and has it."""
        least = 2 if exclusive_only else 1
        return any(lock_mode_here(seat.handle) >= least for seat in list(self.seats))

    def reads_here(self, but: Seat | None = None) -> bool:
        """Whether the calling thread shares the lock through one of the seats, but that one."""
        return any(lock_mode_here(seat.handle) == 1 for seat in list(self.seats) if seat is not but)

    def close(self, why: Ending) -> None:
        """Close what is free; what is in use follows when it is given back."""
        self.ending = why
        self.opener = None
        for seat in list(self.seats):
            seat.extra = True
        self.tidy()


def _kind(exclusive: bool) -> str:
    return "write" if exclusive else "read"


def deadline_of(timeout: float | None) -> float | None:
    """The moment, of the monotonic clock, when `timeout` seconds will be over."""
    return None if timeout is None else time.monotonic() + timeout


def time_left(deadline: float | None) -> float | None:
    """The timeout, from now on, that ends at `deadline`."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def check_timeout(timeout: float | None) -> float | None:
    """Return `timeout`, in seconds, or None for ever.

    Raises:
        TypeError: no number. ValueError: negative or NaN.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout must not be negative or NaN: {timeout}")
    return None if timeout > FOR_EVER else timeout
