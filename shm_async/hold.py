"""The holds: what `read_lock()` and `write_lock()` return.

One object serves `async with`, `with`, and the explicit calls. It stands in a
cohort (of an event loop) or on a seat (of a thread) while it is held, and knows
nothing of how those lock.

Taking a free lock is what happens most, so `__aenter__`, `__aexit__`, `__enter__` and
`__exit__` spell that one case out: a look at one flag, one call into C, one view.
Everything else goes the long way, through the methods of `Hold`.
"""

import errno
import math
import warnings
from collections.abc import Awaitable, Callable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NoReturn

import anyio.lowlevel

from ._native import LockHandle, lock_release, lock_try_exclusive, lock_try_shared
from .asynclock import Cohort
from .errors import WouldBlockError
from .filelock import BUSY, FORKED, failure
from .loops import Task, loop_is_running
from .synclock import Seat

if TYPE_CHECKING:
    from .region import Region

__all__ = ["Hold", "ReadHold", "WriteHold"]

#: Seconds that nobody lives to see the end of; more would overflow a clock.
FOR_EVER = 1e9


class _Done(tuple[()]):
    """Awaiting it does nothing, and costs no coroutine: what `__aexit__` returns."""

    __slots__ = ()
    __await__ = tuple.__iter__


DONE: Awaitable[None] = _Done()  # type: ignore[assignment]  # an iterator, not a generator


class Hold:
    """A read or write lock of a region, before, while and after it is held.

    Use it as ``async with hold as view`` (waits in the event loop, cancellable),
    as ``with hold as view`` (blocks the thread), or through the explicit calls.
    `view` is the region's memory as elements, valid while the lock is held. A hold
    can be used again after it was released, but not twice at once.

    A forked child holds nothing: leaving the block there does nothing.
    """

    __slots__ = (
        "__weakref__",
        "_at",
        "_plain",
        "_region",
        "_task",
        "_timeout",
        "_try",
        "_view",
        "_whole",
    )

    exclusive: ClassVar[bool]

    # Invariants: _at is None <=> nothing is held and nothing is under way.
    # _view is None while nothing is held. _task counts only while _at is a cohort.
    # _plain <=> _timeout is None, and no checkpoint was asked for.

    def __init__(
        self, region: "Region", whole: memoryview, timeout: float | None, fast_acquire: bool
    ) -> None:
        self._region = region
        self._whole = whole  # the region's data; what the holder gets is a slice of it
        self._try: Callable[[LockHandle], int] = (
            lock_try_exclusive if self.exclusive else lock_try_shared
        )
        self._timeout = timeout
        self._plain = timeout is None and fast_acquire
        self._at: Cohort | Seat | None = None
        self._task: Task = None
        self._view: memoryview | None = None

    # ---- async ----------------------------------------------------------------

    async def __aenter__(self) -> memoryview:
        return await self._acquire()

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        view, self._view = self._view, None
        cohort, self._at = self._at, None
        if view is None:  # released in the block
            return DONE
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        if self.exclusive:
            cohort.leave_write()  # type: ignore[union-attr]  # entered, so it is a cohort
        else:
            cohort.leave_read(self._task)  # type: ignore[union-attr]  # the same
        return DONE

    async def acquire(self) -> memoryview:
        """Wait for the lock in the event loop and return `view`.

        Deadlines come from cancel scopes: ``anyio.fail_after``, ``asyncio.timeout``.
        A cancelled wait holds nothing. Does not yield when the lock is free,
        unless made with ``fast_acquire=False``.

        Raises:
            RegionClosedError: also while waiting.
            RegionSizeError: the object was truncated.
            RuntimeError: this hold is in use, or the task would wait for itself.
        """
        self._region._disown(self)
        return await self._acquire()

    async def _acquire(self) -> memoryview:
        self._check_unused()
        if not self._plain:
            await self._checkpoint()
        entered = False
        try:
            code, cohort = self._try_cohort()
            if code == BUSY and not self.exclusive and self._region._pool.reads_here():
                code = cohort.try_nested(self._task)
            if code == BUSY:
                await cohort.enter(self.exclusive, self._task)
            elif code:
                raise failure(code, self._region.name)
            entered = True
            return self._entered()
        except BaseException:
            self._undo(entered)
            raise

    async def _checkpoint(self) -> None:
        if self._timeout is not None:
            raise TypeError(
                "timeout= is for `with`; in a coroutine put `async with` inside "
                "anyio.fail_after(seconds) or asyncio.timeout(seconds)"
            )
        await anyio.lowlevel.checkpoint()
        self._check_unused()

    def _try_cohort(self) -> tuple[int, Cohort]:
        """Try to go in with the running loop's cohort, made anew after a fork."""
        cohort, self._task = self._region._join_cohort()
        self._at = cohort
        code = cohort.try_enter(self.exclusive, self._task)
        if code == FORKED:
            self._region._renew()
            cohort, self._task = self._region._join_cohort()
            self._at = cohort
            code = cohort.try_enter(self.exclusive, self._task)
        return code, cohort

    # ---- blocking -------------------------------------------------------------

    def __enter__(self) -> memoryview:
        if self._at is not None:
            self._check_unused()
        seat = None
        try:
            seat = self._region._pool.free.pop()
            if not self._try(seat.handle):
                self._at = seat
                view = self._view = self._whole[:]
                return view
            busy, seat = seat, None  # never to the pool twice: two threads would share it
            busy.abandon()
        except IndexError:
            pass  # no seat is free
        except BaseException:
            self._at = self._view = None
            if seat is not None:
                seat.abandon()
            raise
        return self._acquire_blocking(self._timeout)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        view, self._view = self._view, None
        seat, self._at = self._at, None
        if view is None:  # released in the block
            return
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        seat.leave(self.exclusive, None)  # type: ignore[union-attr]  # entered: a seat

    def acquire_blocking(self, timeout: float | None = None) -> memoryview:
        """Block the calling thread until the lock is granted, and return `view`.

        Not for event loops: it stops them. Signal handlers run, and what they
        raise (Ctrl-C) ends the wait.

        Args:
            timeout: seconds; None means the one given to `read_lock` or `write_lock`.

        Raises:
            LockTimeoutError, RegionClosedError, RegionSizeError.
            RuntimeError: this hold is in use, or the thread would wait for itself.
        """
        self._region._disown(self)
        return self._acquire_blocking(self._timeout if timeout is None else check_timeout(timeout))

    def _acquire_blocking(self, timeout: float | None, *, may_wait: bool = True) -> memoryview:
        self._check_unused()
        entered = False
        try:
            code, seat = self._try_seat()
            if code == BUSY and not self.exclusive and self._region._reads_here():
                code = seat.try_nested()
            if code == BUSY:
                if not may_wait:
                    raise self._would_block()
                self._region._refuse_to_wait_for_oneself(self.exclusive)
                seat.wait(self.exclusive, timeout)
            elif code:
                raise failure(code, self._region.name)
            entered = True
            return self._entered()
        except BaseException:
            self._undo(entered)
            raise

    def _try_seat(self) -> tuple[int, Seat]:
        """Try to go in from a seat of the pool, made anew after a fork."""
        seat = self._at = self._region._pool.take()
        code = seat.try_enter(self.exclusive)
        if code == FORKED:
            self._region._renew()
            seat = self._at = self._region._pool.take()
            code = seat.try_enter(self.exclusive)
        return code, seat

    # ---- without waiting ------------------------------------------------------

    def acquire_nowait(self) -> memoryview:
        """Take the lock if that needs no waiting, and return `view`.

        In an event loop's thread the hold belongs to the loop, as after `acquire`.

        Raises:
            WouldBlockError: somebody else has the lock; nothing is held.
            RegionClosedError, RegionSizeError. RuntimeError: this hold is in use.
        """
        self._region._disown(self)
        if not loop_is_running():
            return self._acquire_blocking(None, may_wait=False)
        self._check_unused()
        entered = False
        try:
            code, _ = self._try_cohort()
            if code:
                raise self._would_block() if code == BUSY else failure(code, self._region.name)
            entered = True
            return self._entered()
        except BaseException:
            self._undo(entered)
            raise

    def _would_block(self) -> WouldBlockError:
        kind = "write" if self.exclusive else "read"
        return WouldBlockError(errno.EWOULDBLOCK, f"the {kind} lock is not free", self._region.name)

    # ---- release --------------------------------------------------------------

    def release(self) -> None:
        """Release the lock. `view` must not be used any more. Never blocks.

        Raises:
            RuntimeError: not held, or called in another thread than the event loop's.
        """
        if self._view is None:
            raise RuntimeError(f"{self!r} is not held: acquire it first")
        if isinstance(self._at, Cohort) and self._at.thread != get_ident():
            raise RuntimeError(f"{self!r} belongs to an event loop: release it in its thread")
        self._leave()

    def _leave(self) -> None:
        at, self._at = self._at, None
        view, self._view = self._view, None
        try:
            if view is not None:
                view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        finally:
            if at is not None:
                at.leave(self.exclusive, self._task)

    def _undo(self, entered: bool) -> None:
        """An exception ended an attempt to acquire: hold nothing."""
        at, self._at, self._view = self._at, None, None
        if isinstance(at, Seat):
            at.abandon()
        elif at is not None and entered:
            at.leave(self.exclusive, self._task)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: ask its region for another")

    def __del__(self) -> None:
        if self._view is not None:
            message = f"{self!r} was dropped while held: release it"
            self._leave()
            warnings.warn(message, ResourceWarning, 2)

    # ---- facts ----------------------------------------------------------------

    @property
    def view(self) -> memoryview:
        """The region's memory as elements; read-only for readers.

        Raises:
            RuntimeError: the lock is not held.
        """
        if self._view is None:
            raise RuntimeError(f"{self!r} is not held: it has no view")
        return self._view

    def _entered(self) -> memoryview:
        """The lock is ours: the view that says so."""
        view = self._view = self._whole[:]
        return view

    def _check_unused(self) -> None:
        if self._at is not None:
            raise RuntimeError(
                f"{self!r} is in use: call read_lock() or write_lock() again for another hold"
            )

    def __repr__(self) -> str:
        state = "free" if self._at is None else "waiting" if self._view is None else "held"
        return f"<{type(self).__name__} of {self._region.name!r}, {state}>"


class WriteHold(Hold):
    """The write lock: one holder, nobody else. Its view is writable."""

    __slots__ = ()
    exclusive = True

    async def __aenter__(self) -> memoryview:
        cohort = self._region._cohort
        if cohort.idle and self._plain and self._at is None:
            try:
                if not lock_try_exclusive(cohort.handle):
                    if task := cohort.current_task():
                        cohort.idle = False
                        cohort.writer = task
                        cohort.kept_since = 0.0
                        self._at = cohort
                        view = self._view = self._whole[:]
                        return view
                    lock_release(cohort.handle)  # another loop runs in this thread by now
            except BaseException:
                self._at = self._view = None
                cohort.take_back()
                raise
        return await self._acquire()


class ReadHold(Hold):
    """A read lock: many holders at once, no writer. Its view is read-only."""

    __slots__ = ()
    exclusive = False

    async def __aenter__(self) -> memoryview:
        cohort = self._region._cohort
        if cohort.idle and self._plain and self._at is None:
            try:
                if not lock_try_shared(cohort.handle):
                    if task := cohort.current_task():
                        cohort.idle = False
                        cohort.readers[task] = 1
                        cohort.kept_since = 0.0
                        self._task = task
                        self._at = cohort
                        view = self._view = self._whole[:]
                        return view
                    lock_release(cohort.handle)  # another loop runs in this thread by now
            except BaseException:
                self._at = self._view = None
                cohort.take_back()
                raise
        return await self._acquire()


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
