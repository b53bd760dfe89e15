"""The state of a hold, and the one atomic step by which it changes.

A hold is never used twice at once, also by threads, tasks and signal handlers. So each change
begins with a claim that only one caller gets. Every other caller gets an error, and changes
nothing.
"""

from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar

from .._mistakes import NoAwait
from .._native import MARK, lock_mode, lock_release
from .contract import Attempt, Place, Table
from .labels import with_label
from .loops import Task
from .ofd import EXCLUSIVE
from .seat import Seat
from .token import token_slots

__all__ = ["ALL", "State"]

#: The slice that is everything, made once.
ALL = slice(None)


class State(NoAwait):
    """The state of a hold before, while and after it has the lock."""

    __slots__ = (
        "__weakref__",
        "_at",
        "_beside",
        "_converters",
        "_forgotten",
        "_left",
        "_region",
        "_table",
        "_task",
        "_timeout",
        "_view",
        "plain",
        *token_slots("_free", "_held"),
    )

    exclusive: ClassVar[bool]
    manner: ClassVar[int] = MARK  # of its beginning to write, see locking.h

    # Two tokens prevent a use twice at once, also between threads: see token.py. `del` gives a
    # token to one caller, and raises AttributeError for all others.
    # _free: there while the hold is unused. A caller takes it before the attempt to acquire,
    # and returns it after the release.
    # _held: there while the lock is held on a seat. The caller that takes it may release or
    # convert. On a cohort only the loop's thread may do that, and it sets _view to None.
    # _at and _view are not None only while the lock is held; a conversion ends the view first.
    # Each `del` is alone in its `try`: an exception other than AttributeError (Ctrl-C, in Python
    # 3.10) is noticed when it is done, so the token was taken.
    # _task is the key under which the cohort counts the reader.
    # _converters: an element for each call that converts, or is about to find that it cannot.
    # _left: a block ended while one of them had the token; the last of them releases.
    # _beside: a task holds it on a seat, as others stood in its cohort's queue: see owners.py.
    # plain <=> _timeout is None, and no checkpoint is wanted.
    # _at is the only record of whether the lock is held for reading or for writing; `exclusive`
    # is the mode of the next acquire.

    def __init__(
        self, table: Any, timeout: float | None, fast_acquire: bool, region: object
    ) -> None:
        self._table: Table = table  # Any above: the public types end at what users do not make
        self._region = region  # only to keep it alive
        self._timeout = timeout
        self.plain: bool = timeout is None and fast_acquire
        self._free: None = None
        self._held: None  # not there yet
        self._at: Place | None = None
        self._beside = False
        self._converters: list[None] = []
        self._left = False
        self._task: Task = None
        self._view: memoryview | None = None
        self._forgotten: memoryview | None = None  # the view when `upgrade` was not awaited

    # ---- claim ----------------------------------------------------------------

    def _claim(self) -> None:
        """Take the token of _free: from now on only this call may change the hold.

        Raises:
            RuntimeError: the hold is in use.
        """
        try:
            del self._free
        except BaseException as error:
            raise self._not_claimed(error) from None

    def _not_claimed(self, error: BaseException) -> BaseException:
        """Return the error to raise after `del self._free` has raised one."""
        if isinstance(error, AttributeError):
            return self._in_use()
        self._free = None  # Ctrl-C, when the token was taken
        return error

    def _unclaim(self) -> None:
        """Be free after an error. Release a lock that was granted right before it (Ctrl-C)."""
        if self._take():
            self._leave()
        else:
            self._free = None

    def _give_up(self, seat: Seat | None) -> None:
        """Hold nothing, and be free, after an exception in `__enter__`, which had that seat."""
        try:
            if seat is not None:
                self._undo()
                seat.abandon()
        finally:
            self._unclaim()

    def _undo(self) -> None:
        with suppress(AttributeError):
            del self._held
        self._at = self._view = None
        self._beside = False

    def _attempt(self) -> Attempt:
        """Return an attempt to acquire the lock of this hold."""
        return Attempt(self, self._table, self.exclusive, self.manner)

    def _entered(self, place: Place, task: Task = None, beside: bool = False) -> memoryview:
        """Record that the lock is held at that place, and return the view."""
        self._task = task
        self._beside = beside
        self._at = place
        view = self._view = (place.writable if self.exclusive else place.readable)[ALL]
        if not place.in_loop:
            self._held = None
        return view

    # ---- release or convert -----------------------------------------------------

    def _take(self, doing: str = "") -> bool:
        """Take the right to release or convert the held lock; False: none is held.

        After an error the lock is released. Afterwards _end_view ends _view.
        """
        at = self._at
        if at is not None and at.in_loop:
            if doing and at.is_foreign():
                raise RuntimeError(f"{self!r} belongs to an event loop: {doing} it in its thread")
            return self._view is not None
        try:
            del self._held
        except AttributeError:
            return False
        except BaseException:
            self._leave()
            raise
        return True

    def _give_back(self) -> None:
        """Return the token after a conversion that holds the lock."""
        if self._at is not None and not self._at.in_loop:
            self._held = None
        self._conversion_is_over()

    def _lost(self, attempt: Attempt) -> None:
        """Hold nothing after a failed conversion."""
        try:
            self._undo()
            attempt.undo()
        finally:
            self._converters.pop()
            self._left = False
            self._free = None  # last: from now on another caller may have the hold

    def _conversion_is_over(self) -> None:
        self._converters.pop()
        if self._left and not self._converters:
            self._left = False
            if self._take_to_end():  # another conversion may begin at this moment
                self._leave()

    def _is_held(self) -> bool:
        in_loop = self._at is not None and self._at.in_loop
        return hasattr(self, "_held") or (in_loop and self._view is not None)

    def _leave_if_held(self) -> None:
        """End a block that may have released the lock, or acquired it again in another way."""
        at = self._at
        foreign = at is not None and at.is_foreign()
        if not foreign and self._take_to_end():
            self._leave()

    def _take_to_end(self) -> bool:
        """Take the right to release at the end of a block; False: there is no lock to release.

        If another thread or task converts the hold at this moment, its call releases the lock.
        """
        looked = False
        while not self._take():
            if self._converters:
                self._left = True
                if self._converters:  # that call checks _left after it has removed itself
                    return False
                self._left = False
            elif looked:
                return False
            looked = True  # a call that converted may have returned the right just now
        return True

    def _end(self, *, clean: bool) -> None:  # clean: see RecoveryHold
        """Release the lock, at the end of a block or without one."""
        self._leave()

    def _leave(self) -> None:
        """Release the lock: for a caller that has taken the token of _held."""
        at, self._at = self._at, None
        self._beside = False
        try:
            self._end_view()
        finally:
            try:
                if at is not None:
                    at.leave(self._task)
            finally:
                self._free = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            del self._held
        except AttributeError:
            self._leave_if_held()
            return
        except BaseException:
            self._leave()
            raise
        view: Any = self._view
        seat: Any = self._at
        self._view = self._at = None
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        finally:
            try:
                code = lock_release(seat.handle)
            finally:
                try:
                    seat.pool.free.append(seat)
                finally:
                    self._free = None
        if code or seat.extra:
            seat.left(code)

    def _end_view(self) -> None:
        view, self._view = self._view, None
        try:
            if view is not None:
                view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on

    # ---- facts ------------------------------------------------------------------

    @property
    def label(self) -> str | None:
        """The purpose of the lock, the `label` that it was made with; None if it has none."""
        return None

    def _in_use(self) -> RuntimeError:
        return RuntimeError(
            f"{self!r} is in use: call read_lock() or write_lock() again for another hold"
        )

    def _state(self) -> str:
        if hasattr(self, "_free"):
            return "free"
        at = self._at
        if at is None:
            return "waiting"
        return "writing" if lock_mode(at.handle) == EXCLUSIVE else "reading"

    def __repr__(self) -> str:
        kind = with_label(type(self).__name__, self.label)
        return f"<{kind} of {self._table.name!r}, {self._state()}>"
