"""The holds: what `read_lock()` and `write_lock()` return.

One object serves `async with`, `with`, and the explicit calls. It stands in a
cohort (of an event loop) or on a seat (of a thread) while it is held, and knows
nothing of how those lock.

Taking a free lock is what happens most, so `__enter__` and `__exit__` here, and
`__aenter__` and `__aexit__` in fast.py, spell that one case out.
Everything else goes the long way, through the methods of `Hold`.
"""

import warnings
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from .._failures import would_block
from .._memory.elements import numpy_array
from .._mistakes import not_held, upgrade_forgotten
from .._native import BUSY, lock_mode
from ..errors import OwnerDiedError, RegionReplacedError
from . import slow
from .contract import Attempt, Refusal, Way
from .deadlines import Deadline, check_timeout
from .decorating import Function, decorate
from .loops import loop_is_running
from .ofd import EXCLUSIVE, FORKED, LET_GO, failure
from .state import State
from .upgrading import Upgrade
from .ways import AT_ONCE_IN_LOOP, IN_LOOP, IN_LOOP_LOOSELY, InLoop, InThread, reads_beside

if TYPE_CHECKING:
    import numpy

__all__ = ["Hold"]


class Hold(State):
    """A read or write lock of a region, before, while and after it is held.

    Use it as ``async with hold as view`` (waits in the event loop, cancellable),
    as ``with hold as view`` (blocks the thread), or through the explicit calls.
    `view` is the region's memory as elements, valid while the lock is held: to use it after
    the block is a ValueError ("released memoryview object"), so copy what you need later. The
    view of a read lock is read-only: to store through it is a TypeError ("read-only memory").
    A hold can be used again after it was released, but not twice at once.

    `upgrade` turns a read lock into the write lock, `downgrade` back; both end the view
    and make another, so take it from `view` afterwards.

    A forked child holds nothing: leaving the block there does nothing.
    """

    __module__ = "shm_async"

    __slots__ = ()

    # ---- acquire --------------------------------------------------------------

    async def acquire(self) -> memoryview:
        """Wait for the lock in the event loop and return `view`.

        The lock belongs to nobody in particular: any task of the loop may release it. So
        nobody can be told for certain that he waits for himself, as inside ``async with``.
        What is held when the loop ends stays held until it is released, from any thread.

        Deadlines come from cancel scopes: ``anyio.fail_after``, ``asyncio.timeout``.
        A cancelled wait holds nothing. Does not yield when the lock is free,
        unless made with ``fast_acquire=False``.

        Raises:
            RegionClosedError: also while waiting.
            RegionSizeError: the object was truncated.
            OwnerDiedError: the last writer died while it held the lock for writing.
            RuntimeError: this hold is in use, or the task would wait for itself.
        """
        return await self._claim_and_acquire(self._way(loose=True))

    def acquire_blocking(self, timeout: float | None = None) -> memoryview:
        """Block the calling thread until the lock is granted, and return `view`.

        Not for event loops: it stops them. A wait in a thread that runs one is a ResourceWarning
        and a warning of the logger "shm_async", once for each place; in asyncio's debug mode it
        is a RuntimeError. Signal handlers run, and what they raise (Ctrl-C) ends the wait.

        Args:
            timeout: seconds; None means the one given to ``read_lock`` or ``write_lock``. More
                than 1e9 (31 years) is for ever.

        The lock belongs to nobody in particular: any thread may release it. So no thread can
        be told for certain that it waits for itself, as inside ``with``.

        Raises:
            LockTimeoutError, RegionClosedError, RegionSizeError, OwnerDiedError: nothing is held.
            RuntimeError: this hold is in use, or the thread would wait for itself.
        """
        timeout = self._timeout if timeout is None else check_timeout(timeout)
        way = InThread(Deadline(timeout), loose=True)
        return slow.run(self._claim_and_acquire(way))

    def acquire_nowait(self) -> memoryview:
        """Take the lock if that needs no waiting, and return `view`.

        In an event loop's thread the hold belongs to the loop, as after `acquire`.

        Raises:
            WouldBlockError: somebody else has the lock; nothing is held.
            RegionClosedError, RegionSizeError, OwnerDiedError: nothing is held.
            RuntimeError: this hold is in use.
        """
        if loop_is_running():
            return slow.run(self._claim_and_acquire(AT_ONCE_IN_LOOP))
        way = InThread(Deadline(None), loose=True, may_wait=False)
        return slow.run(self._claim_and_acquire(way))

    def _way(self, *, loose: bool = False) -> Way:
        """How a task waits for this hold."""
        if self.plain:
            return IN_LOOP_LOOSELY if loose else IN_LOOP
        return InLoop(loose=loose, yields=True, timeout=self._timeout)

    async def _claim_and_acquire(self, way: Way) -> memoryview:
        self._claim()
        self._table.disown(self)  # now that no block can leave it as a spare
        try:
            return await self._acquire(way)
        except BaseException:
            self._unclaim()
            raise

    async def _acquire(self, way: Way, refusal: Refusal | None = None) -> memoryview:
        """Acquire the lock, for a caller that has claimed the hold and unclaims it after an error.

        This is the slow way, written once for event loops and threads: try, wait, put right what
        can be, and try again. See slow.py. `refusal` is the result of a first try.
        """
        attempt = Attempt(self, self._table, self.exclusive, self.manner)
        repairs = 0
        if not self.plain:
            await way.begin()
        if refusal is not None:
            repairs += await self._table.mend(refusal, repairs, way)
        while True:
            try:
                await way.enter(attempt)
                return self._entered(attempt.where(), attempt.task, attempt.beside)
            except (OwnerDiedError, RegionReplacedError) as error:  # noqa: PERF203  # waits are long
                attempt.undo()
                repairs += await self._table.mend(error, repairs, way)
            except BaseException:
                self._undo()
                attempt.undo()
                raise

    # ---- as a decorator ---------------------------------------------------------

    def __call__(self, function: Function) -> Function:
        """Decorate a function, or a coroutine function, that is to run under such a lock.

        Each call takes the lock by a hold of its own: `timeout` and the other options are those
        of this one, which is not used itself. The function finds the data in `region.buffer`.

        Raises:
            TypeError: it is a generator or a class.
        """
        return decorate(function, self._another)

    def _another(self) -> "Hold":
        """A new hold with the same options."""
        fast_acquire = self.plain or self._timeout is not None
        return type(self)(self._table, self._timeout, fast_acquire, self._region)

    # ---- release --------------------------------------------------------------

    def release(self) -> None:
        """Release the lock. `view` must not be used any more. Never blocks.

        Raises:
            RuntimeError: not held, or called in another thread than the event loop's.
        """
        if not self._take("release"):
            raise not_held(self)
        self._end(clean=True)

    async def release_async(self) -> None:
        """Do what `release` does, for code that also serves regions beyond this host. Never waits.

        So there is nothing to cancel. Errors are those of `release`.
        """
        self.release()

    def __del__(self) -> None:
        if self._at is not None and self._is_held():
            message = f"{self!r} was dropped while held: release it"
            self._take()
            self._leave()
            warnings.warn(message, ResourceWarning, 2)

    # ---- convert --------------------------------------------------------------

    def upgrade(self) -> Coroutine[Any, Any, bool]:
        """Turn the read lock into the write lock. True: nobody wrote in between.

        False: the read lock had to be let go on the way, so what was read may be old: read
        again. `view` is a new one, writable. Waits in the event loop until nobody else
        reads; cancellable, and whoever is cancelled holds nothing any more.

        Raises:
            PermissionError: the region was attached with ``readonly=True``.
            RuntimeError: this hold does not read, or the task would wait for itself.
            RegionClosedError: the region was closed, before or while waiting.
            RegionSizeError: the object was truncated.
            OwnerDiedError: somebody wrote in between, and died while it held the lock for writing.
            RegionReplacedError: somebody resized it in between, also with ``follow=True``.
            TypeError: the result was used without ``await``.

        After the first two, and on a region that had been closed before, the read lock is
        still held; after anything else nothing is.
        """
        return Upgrade(self._upgrade(IN_LOOP), self._forget_upgrade)

    def _forget_upgrade(self) -> None:
        self._forgotten = self._view

    def upgrade_blocking(self, timeout: float | None = None) -> bool:
        """Do what `upgrade` does in a lock that was taken by ``with`` or `acquire_blocking`.

        Blocks the calling thread. Signal handlers run, and what they raise ends the wait.

        Args:
            timeout: seconds; None means the one given to ``read_lock``.

        Raises:
            LockTimeoutError: nothing is held any more; and as for `upgrade`.
        """
        timeout = self._timeout if timeout is None else check_timeout(timeout)
        return slow.run(self._upgrade(InThread(Deadline(timeout))))

    async def _upgrade(self, way: Way) -> bool:
        self._forgotten = None
        attempt = self._to_convert()
        try:
            way.check_upgrade(attempt)
            self._table.check_writable()
        except BaseException:
            self._give_back()
            raise
        try:
            self._end_view()
            kept = await slow.upgrade(attempt, way)
        except BaseException:
            self._lost(attempt)
            raise
        self._converted(attempt)
        return kept

    def upgrade_nowait(self) -> None:
        """Turn the read lock into the write lock if that needs no waiting.

        Raises:
            WouldBlockError: somebody else reads. Its ``still_held`` is True if they are all of
                this event loop. Else it is False and nothing is held any more: the kernel
                takes the read lock away in trying.
            PermissionError, RuntimeError, RegionClosedError, RegionSizeError: the read lock
                is still held.
        """
        attempt = self._to_convert()
        try:
            others = reads_beside(attempt)
            self._table.check_writable()
            # with others, to try would lose the lock for nothing
            code = BUSY if others else attempt.where().try_upgrade(attempt.task)
            if code in (BUSY, LET_GO):
                error = would_block(self._table.name, True)
                error.still_held = code == BUSY
                raise error
            if code:
                raise failure(code, self._table.name, attempt.where().handle)
            self._end_view()
            self._view = attempt.where().writable[:]
        finally:
            if attempt.holds():
                self._give_back()
            else:
                self._end_view()
                self._lost(attempt)

    def _to_convert(self) -> Attempt:
        """Take the right to convert what is held, and tell where it stands."""
        self._converters.append(None)
        try:
            if not self._take("convert"):
                raise not_held(self)
        except BaseException:
            self._conversion_is_over()
            raise
        attempt = self._attempt()
        attempt.place, attempt.beside = self._at, self._beside
        at = attempt.where()
        attempt.task = self._task if at.writer is None else at.writer
        attempt.before = at.inside(attempt.task) - 1
        return attempt

    def _converted(self, attempt: Attempt) -> None:
        self._at, self._task, self._beside = attempt.where(), attempt.task, attempt.beside
        self._view = self._at.writable[:]
        self._give_back()

    def downgrade(self) -> None:
        """Turn the write lock into a read lock. Never waits; nobody writes in between.

        `view` is a new one, read-only.

        Raises:
            RuntimeError: this hold does not write, or belongs to another event loop.
        """
        attempt = self._to_convert()
        try:
            self._downgrade(attempt)
        finally:
            self._give_back()

    async def downgrade_async(self) -> None:
        """Do what `downgrade` does, for code that also serves regions beyond this host.

        Never waits, so there is nothing to cancel. Errors are those of `downgrade`.
        """
        self.downgrade()

    def _downgrade(self, attempt: Attempt) -> None:
        at = attempt.where()
        mode = lock_mode(at.handle)
        if mode == 0:
            raise failure(FORKED, self._table.name)
        if mode != EXCLUSIVE:
            raise RuntimeError(f"{self!r} reads already: there is nothing to downgrade")
        self._task = at.writer
        code = at.downgrade()
        if code < 0:
            raise failure(code, self._table.name)
        self._end_view()
        self._view = at.readable[:]

    # ---- facts ----------------------------------------------------------------

    @property
    def view(self) -> memoryview:
        """The region's memory as elements; read-only for readers.

        Raises:
            RuntimeError: the lock is not held, or you forgot ``await`` before `upgrade`.
        """
        view = self._view  # once: another thread may release it meanwhile
        if view is None:
            raise not_held(self)
        if view is self._forgotten:
            raise upgrade_forgotten(self)
        return view

    def numpy(self) -> "numpy.ndarray[Any, Any]":
        """The region's memory as a NumPy array of its shape, no copy; read-only for readers.

        To be used while the lock is held; it stays mapped for as long as the array lives, but
        without a lock. NumPy does not clamp what it stores. Never blocks. Needs the extra
        ``shm_async[numpy]``.

        Raises:
            RuntimeError: the lock is not held.
            ImportError: NumPy is not installed.
        """
        return numpy_array(self.view)

    @property
    def owner_died(self) -> bool:
        """Whether the last writer had died while it wrote, as this hold found at its grant.

        Only ``write_lock(recover=True)`` is granted then, so it is False for all others.
        """
        return False

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: ask its region for another")
