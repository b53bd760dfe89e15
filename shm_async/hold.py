"""The holds: what `read_lock()` and `write_lock()` return.

One object serves `async with`, `with`, and the explicit calls. It stands in a
cohort (of an event loop) or on a seat (of a thread) while it is held, and knows
nothing of how those lock.

Taking a free lock is what happens most, so `__enter__` and `__exit__` here, and
`__aenter__` and `__aexit__` in guards.py, spell that one case out.
Everything else goes the long way, through the methods of `Hold`.
"""

import errno
import warnings
from collections.abc import Callable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import anyio.lowlevel

from ._native import (
    MARK,
    LockHandle,
    lock_mode,
    lock_release,
    lock_try_exclusive,
    lock_try_shared,
)
from .asynclock import EXCLUSIVE, LOST, Cohort
from .elements import numpy_array
from .errors import OwnerDiedError, RegionReplacedError, WouldBlockError
from .filelock import BUSY, FORKED, failure
from .loops import NO_TASK, Task, loop_is_running
from .synclock import Seat, check_timeout, deadline_of, time_left

if TYPE_CHECKING:
    import numpy

    from .locks import Locks

__all__ = ["Hold"]


#: The slice that is everything, made once.
ALL = slice(None)


class Hold:
    """A read or write lock of a region, before, while and after it is held.

    Use it as ``async with hold as view`` (waits in the event loop, cancellable),
    as ``with hold as view`` (blocks the thread), or through the explicit calls.
    `view` is the region's memory as elements, valid while the lock is held. A hold
    can be used again after it was released, but not twice at once.

    `upgrade` turns a read lock into the write lock, `downgrade` back; both end the view
    and make another, so take it from `view` afterwards.

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
    )

    exclusive: ClassVar[bool]
    manner: ClassVar[int] = MARK  # in which it begins to write, see shim.h

    # Invariants: _at is None <=> nothing is held and nothing is under way.
    # _view is None while nothing is held. _task is whom the cohort knows as a reader.
    # _plain <=> _timeout is None, and no checkpoint was asked for.
    # What is held, for reading or for writing, is known to _at alone; `exclusive` is what
    # will be asked for.

    def __init__(self, region: "Locks", timeout: float | None, fast_acquire: bool) -> None:
        self._region = region
        self._try: Callable[[LockHandle], int] = (
            lock_try_exclusive if self.exclusive else lock_try_shared
        )
        self._timeout = timeout
        self._plain = timeout is None and fast_acquire
        self._at: Cohort | Seat | None = None
        self._task: Task = None
        self._view: memoryview | None = None

    # ---- async ----------------------------------------------------------------

    async def acquire(self) -> memoryview:
        """Wait for the lock in the event loop and return `view`.

        Deadlines come from cancel scopes: ``anyio.fail_after``, ``asyncio.timeout``.
        A cancelled wait holds nothing. Does not yield when the lock is free,
        unless made with ``fast_acquire=False``.

        Raises:
            RegionClosedError: also while waiting.
            RegionSizeError: the object was truncated.
            OwnerDiedError: the last writer died inside.
            RuntimeError: this hold is in use, or the task would wait for itself.
        """
        self._region._disown(self)
        return await self._acquire()

    async def _acquire(self) -> memoryview:
        self._check_unused()
        if not self._plain:
            await self._checkpoint()
        repairs = 0
        while True:
            entered = False
            try:
                code, cohort = self._try_cohort()
                if code == BUSY and not self.exclusive and self._region._pool.reads_here():
                    code = cohort.try_nested(self._task)
                if code == BUSY:
                    await cohort.enter(self.exclusive, self._task, self.manner)
                elif code:
                    raise failure(code, self._region._name, cohort.handle)
                entered = True
                return self._entered()
            except (OwnerDiedError, RegionReplacedError) as error:
                self._undo(entered)
                repairs += await self._region._mend(error, repairs)
                self._check_unused()
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
        code = cohort.try_enter(self.exclusive, self._task, self.manner)
        if code == FORKED:
            self._region._renew()
            cohort, self._task = self._region._join_cohort()
            self._at = cohort
            code = cohort.try_enter(self.exclusive, self._task, self.manner)
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
                view = self._view = (seat.writable if self.exclusive else seat.readable)[ALL]
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
        try:
            code = lock_release(seat.handle)  # type: ignore[union-attr]  # entered: a seat
        finally:
            seat.pool.free.append(seat)  # type: ignore[union-attr,arg-type]  # the same
        if code or seat.extra:  # type: ignore[union-attr]  # the same
            seat.left(code)  # type: ignore[union-attr]  # the same

    def acquire_blocking(self, timeout: float | None = None) -> memoryview:
        """Block the calling thread until the lock is granted, and return `view`.

        Not for event loops: it stops them. Signal handlers run, and what they
        raise (Ctrl-C) ends the wait.

        Args:
            timeout: seconds; None means the one given to `read_lock` or `write_lock`.

        Raises:
            LockTimeoutError, RegionClosedError, RegionSizeError, OwnerDiedError.
            RuntimeError: this hold is in use, or the thread would wait for itself.
        """
        self._region._disown(self)
        return self._acquire_blocking(self._timeout if timeout is None else check_timeout(timeout))

    def _acquire_blocking(self, timeout: float | None, *, may_wait: bool = True) -> memoryview:
        self._check_unused()
        deadline = deadline_of(timeout)
        repairs = 0
        while True:
            entered = False
            try:
                code, seat = self._try_seat()
                if code == BUSY and not self.exclusive and self._region._reads_here():
                    code = seat.try_nested()
                if code == BUSY:
                    if not may_wait:
                        raise self._would_block()
                    self._region._refuse_to_wait_for_oneself(self.exclusive)
                    seat.wait(self.exclusive, timeout, self.manner)
                elif code:
                    raise failure(code, self._region._name, seat.handle)
                entered = True
                return self._entered()
            except (OwnerDiedError, RegionReplacedError) as error:
                self._undo(entered)
                repairs += self._region._mend_blocking(
                    error, repairs, time_left(deadline), may_wait=may_wait
                )
                timeout = time_left(deadline)
            except BaseException:
                self._undo(entered)
                raise

    def _try_seat(self) -> tuple[int, Seat]:
        """Try to go in from a seat of the pool, made anew after a fork."""
        seat = self._at = self._region._take_seat()
        code = seat.try_enter(self.exclusive, self.manner)
        if code == FORKED:
            self._region._renew()
            seat = self._at = self._region._take_seat()
            code = seat.try_enter(self.exclusive, self.manner)
        return code, seat

    # ---- without waiting ------------------------------------------------------

    def acquire_nowait(self) -> memoryview:
        """Take the lock if that needs no waiting, and return `view`.

        In an event loop's thread the hold belongs to the loop, as after `acquire`.

        Raises:
            WouldBlockError: somebody else has the lock; nothing is held.
            RegionClosedError, RegionSizeError, OwnerDiedError.
            RuntimeError: this hold is in use.
        """
        self._region._disown(self)
        if not loop_is_running():
            return self._acquire_blocking(None, may_wait=False)
        self._check_unused()
        repairs = 0
        while True:
            entered = False
            try:
                code, cohort = self._try_cohort()
                if code == BUSY:
                    raise self._would_block()
                if code:
                    raise failure(code, self._region._name, cohort.handle)
                entered = True
                return self._entered()
            except (OwnerDiedError, RegionReplacedError) as error:
                self._undo(entered)
                repairs += self._region._mend_nowait(error, repairs)
            except BaseException:
                self._undo(entered)
                raise

    def _would_block(self) -> WouldBlockError:
        kind = "write" if self.exclusive else "read"
        return WouldBlockError(
            errno.EWOULDBLOCK, f"the {kind} lock is not free", self._region._name
        )

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
        try:
            self._end_view()
        finally:
            if at is not None:
                at.leave(self._task)

    def _end_view(self) -> None:
        view, self._view = self._view, None
        try:
            if view is not None:
                view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on

    def _undo(self, entered: bool) -> None:
        """An exception ended an attempt to acquire: hold nothing."""
        at, self._at, self._view = self._at, None, None
        if isinstance(at, Seat):
            at.abandon()
        elif at is not None and entered:
            at.leave(self._task)

    # ---- convert --------------------------------------------------------------

    async def upgrade(self) -> bool:
        """Turn the read lock into the write lock. True: nobody wrote in between.

        False: the read lock had to be let go on the way, so what was read may be old: read
        again. `view` is a new one, writable. Waits in the event loop until nobody else
        reads; cancellable, and whoever is cancelled holds nothing any more.

        Raises:
            PermissionError: the region was attached with ``readonly=True``.
            RuntimeError: this hold does not read, or the task would wait for itself.
            RegionClosedError: the region was closed, before or while waiting.
            RegionSizeError: the object was truncated.
            OwnerDiedError: somebody wrote in between, and died inside.
            RegionReplacedError: somebody resized it in between, also with ``follow=True``.

            After the first two, and on a region that had been closed before, the read lock is
            still held; after anything else nothing is.
        """
        cohort = self._cohort_to_upgrade()
        self._region._check_writable()
        self._end_view()
        try:
            kept = await self._upgrade(cohort)
        except BaseException:
            self._at = None
            raise
        self._view = cohort.writable[:]
        return kept

    async def _upgrade(self, cohort: Cohort) -> bool:
        try:
            return await cohort.upgrade(self._task)
        except OwnerDiedError as error:
            died = error
        repairs = 0
        while True:  # whose lock was let go on the way
            repairs += await self._region._mend(died, repairs)
            try:
                await cohort.enter(True, self._task)
                return False
            except OwnerDiedError as error:
                died = error

    def upgrade_blocking(self, timeout: float | None = None) -> bool:
        """Do what `upgrade` does in a lock that was taken by ``with`` or `acquire_blocking`.

        Blocks the calling thread. Signal handlers run, and what they raise ends the wait.

        Args:
            timeout: seconds; None means the one given to `read_lock`.

        Raises:
            LockTimeoutError: nothing is held any more; and as for `upgrade`.
        """
        timeout = self._timeout if timeout is None else check_timeout(timeout)
        seat = self._seat_to_upgrade()
        self._region._check_writable()
        self._end_view()
        try:
            code = seat.try_upgrade()
            if code == BUSY:
                self._wait_to_write(seat, timeout)
            elif code:
                raise failure(code, self._region._name, seat.handle)
        except BaseException:
            self._undo(False)
            raise
        self._view = seat.writable[:]
        return code == 0

    def _wait_to_write(self, seat: Seat, timeout: float | None) -> None:
        deadline = deadline_of(timeout)
        died: OwnerDiedError | None
        repairs = 0
        while True:
            try:
                seat.wait(True, time_left(deadline))
                return
            except OwnerDiedError as error:
                died = error
            repairs += self._region._mend_blocking(died, repairs, time_left(deadline))

    def upgrade_nowait(self) -> None:
        """Turn the read lock into the write lock if that needs no waiting.

        Raises:
            WouldBlockError: somebody else reads. Its `still_held` is True if they are all of
                this event loop. Else it is False and nothing is held any more: the kernel
                takes the read lock away in trying.
            PermissionError, RuntimeError, RegionClosedError, RegionSizeError: the read lock
                is still held.
        """
        at = self._seat_to_upgrade() if isinstance(self._at, Seat) else self._cohort_to_upgrade()
        self._region._check_writable()
        code = at.try_upgrade() if isinstance(at, Seat) else at.try_upgrade(self._task)
        if code == 0:
            self._end_view()
            self._view = at.writable[:]
            return
        still_held = isinstance(at, Cohort) and code == BUSY
        if code in (BUSY, LOST):
            if not still_held:
                self._end_view()
                self._undo(False)
            error = self._would_block()
            error.still_held = still_held
            raise error
        raise failure(code, self._region._name, at.handle)

    def downgrade(self) -> None:
        """Turn the write lock into a read lock. Never waits; nobody writes in between.

        `view` is a new one, read-only.

        Raises:
            RuntimeError: this hold does not write, or belongs to another event loop.
        """
        at = self._held_at()
        mode = lock_mode(at.handle)
        if mode == 0:
            raise failure(FORKED, self._region._name)
        if mode != EXCLUSIVE:
            raise RuntimeError(f"{self!r} reads already: there is nothing to downgrade")
        if isinstance(at, Cohort):
            self._task = at.writer
        code = at.downgrade()
        if code < 0:
            raise failure(code, self._region._name)
        self._end_view()
        self._view = at.readable[:]

    def _held_at(self) -> Cohort | Seat:
        if self._view is None or self._at is None:
            raise RuntimeError(f"{self!r} is not held: acquire it first")
        if isinstance(self._at, Cohort) and self._at.thread != get_ident():
            raise RuntimeError(f"{self!r} belongs to an event loop: convert it in its thread")
        return self._at

    def _cohort_to_upgrade(self) -> Cohort:
        at = self._held_at()
        if isinstance(at, Seat):
            message = f"{self!r} belongs to a thread: use upgrade_blocking()"
            raise RuntimeError(message)  # noqa: TRY004  # a wrong call, not a wrong type
        if at.writer is not None:
            raise RuntimeError(f"{self!r} has the write lock already")
        task = at.current_task()
        others = at.readers[self._task] - 1 if self._task is not NO_TASK else 0
        if task is not self._task and task in at.readers:
            others += 1
        if others or self._region._pool.reads_here():
            raise self._would_wait_for_oneself()
        return at

    def _seat_to_upgrade(self) -> Seat:
        at = self._held_at()
        if isinstance(at, Cohort):
            message = f"{self!r} belongs to an event loop: await upgrade()"
            raise RuntimeError(message)  # noqa: TRY004  # the same
        if lock_mode(at.handle) == EXCLUSIVE:
            raise RuntimeError(f"{self!r} has the write lock already")
        if self._region._reads_here(but=at):
            raise self._would_wait_for_oneself()
        return at

    def _would_wait_for_oneself(self) -> RuntimeError:
        return RuntimeError(
            f"another read lock of region {self._region._name!r} is held here, and to upgrade "
            "this one would wait for it for ever: release the other one first"
        )

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

    def numpy(self) -> "numpy.ndarray[Any, Any]":
        """The region's memory as a NumPy array of its shape, no copy; read-only for readers.

        To be used while the lock is held; it stays mapped for as long as the array lives, but
        without a lock. NumPy does not clamp what it stores. Never blocks. Needs the extra
        ``shm_async[numpy]``.

        Raises:
            RuntimeError: the lock is not held. ImportError: NumPy is not installed.
        """
        return numpy_array(self.view)

    @property
    def owner_died(self) -> bool:
        """Whether it found, at its grant, that the last writer had died inside.

        Only `write_lock(recover=True)` is granted then, so it is False for all others.
        """
        return False

    def _entered(self) -> memoryview:
        """The lock is ours: the view that says so."""
        assert self._at is not None
        at = self._at
        view = self._view = at.writable[:] if self.exclusive else at.readable[:]
        return view

    def _check_unused(self) -> None:
        if self._at is not None:
            raise RuntimeError(
                f"{self!r} is in use: call read_lock() or write_lock() again for another hold"
            )

    def _state(self) -> str:
        if self._at is None:
            return "free"
        if self._view is None:
            return "waiting"
        return "writing" if lock_mode(self._at.handle) == EXCLUSIVE else "reading"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._region._name!r}, {self._state()}>"
