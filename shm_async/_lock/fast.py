"""ReadHold and WriteHold, and the shortest way in and out of a free lock.

That is what happens most, so `__aenter__` and `__aexit__` spell it out: a look at one flag,
one call into C, one view. They do what `Cohort.try_write`, `try_read`, `leave_write` and
`leave_read` do, which come into play as soon as anything is out of the ordinary. A view is a
slice, or of memory that is read-only `toreadonly()`, which is the same and a little cheaper.
"""

from collections.abc import Awaitable
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Any

from .._native import (
    BUSY,
    MARK,
    lock_release,
    lock_spin_manner,
    lock_spin_shared,
    lock_try_exclusive,
    lock_try_shared,
)
from ..errors import OwnerDiedError, RegionReplacedError
from . import slow
from .cohort import Cohort
from .deadlines import Deadline
from .done import DONE
from .hold import Hold
from .loops import Task
from .members import SOLE
from .state import ALL
from .ways import InThread

__all__ = ["ReadHold", "WriteHold"]


class WriteHold(Hold):
    """The write lock: one holder, nobody else. Its view is writable."""

    __slots__ = ()
    exclusive = True

    def __enter__(self) -> memoryview:
        try:
            del self._free
        except BaseException as error:
            raise self._not_claimed(error) from None
        seat = None
        try:
            try:
                seat = self._table.pool.free.pop()
                code = lock_try_exclusive(seat.handle)
                code = lock_spin_manner(seat.handle, MARK) if code == BUSY else code
                if not code:
                    self._at = seat
                    view = self._view = seat.writable[ALL]
                    self._held = None
                    return view
                busy, seat = seat, None  # never to the pool twice: two threads would share it
                busy.abandon()
            except IndexError:
                pass  # no seat is free
            return slow.run(self._acquire(InThread(Deadline(self._timeout))))
        except BaseException:
            self._give_up(seat)
            raise

    async def __aenter__(self) -> memoryview:
        try:
            del self._free
        except BaseException as error:
            raise self._not_claimed(error) from None
        try:
            cohort, queues = self._table.cohort, self.plain
            if queues and cohort.idle:
                try:
                    if (task := cohort.tasks[cohort.native]) is not None:
                        code = lock_try_exclusive(cohort.handle)
                        code = lock_spin_manner(cohort.handle, MARK) if code == BUSY else code
                        if not code:
                            cohort.idle, cohort.writer, self._at = SOLE, task, cohort
                            view = self._view = cohort.writable[ALL]
                            return view
                    queues = task is not None and code == BUSY
                except KeyError:  # another loop runs in this thread by now
                    queues = False
                except BaseException:
                    self._undo()
                    cohort.take_back()
                    raise
            if queues and (task := self._who_queues(cohort)) is not None:
                try:
                    await cohort.queue_up(True, task)
                    self._at, self._view = cohort, (view := cohort.writable[ALL])
                    # if it has just been granted: else the bounds of `hand_over` would begin anew
                    if not (cohort.queue or cohort.ended or cohort.passes):
                        cohort.idle, cohort.share_until = SOLE, 0.0
                    return view
                except (OwnerDiedError, RegionReplacedError) as error:
                    return await self._acquire(self._way(), error)
                except BaseException:
                    self._undo()
                    cohort.give_up(task, 0)
                    raise
            return await self._acquire(self._way())
        except BaseException:
            self._unclaim()
            raise

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        view: Any = self._view
        cohort: Any = self._at  # where it was entered, as a rule
        if view is None or cohort.idle is not SOLE:
            if view is None or cohort.writer is None:
                self._leave_if_held()
            else:  # other tasks of this loop wait, or have waited
                self._hand_over(view, cohort)
            return DONE
        self._view = self._at = None
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        finally:
            try:
                code = lock_release(cohort.handle)
            finally:
                cohort.writer = None
                cohort.idle = True
                self._free = None
        if code:
            cohort.left(code)
        return DONE

    def _who_queues(self, cohort: Cohort) -> Task:
        """Return the running task if it must queue in that cohort; None: it needs a closer look."""
        if cohort.thread != get_ident():
            return None
        if len(self._table.namesakes.references) > 1:
            return None
        try:
            task = cohort.tasks[cohort.native]
        except KeyError:  # another loop runs in this thread by now
            return None
        return None if cohort.writer is task or task in cohort.readers else task

    def _hand_over(self, view: memoryview, cohort: Cohort) -> None:
        """End the block, for the next task in the queue if there is one."""
        try:  # is_foreign, spelled out
            ours = cohort.thread == get_ident() and cohort.tasks[cohort.native] is not None
        except KeyError:  # another loop runs in this thread by now
            ours = False
        if not ours:
            self._leave_if_held()
            return
        self._view = self._at = None
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        finally:
            try:
                cohort.leave_write()
            finally:
                table = self._table
                if table.spare_write is not None and self.plain:
                    table.spare_write = self  # the spare one is another task's, which waits
                self._free = None  # last: from now on another caller may have it, and disown it


class ReadHold(Hold):
    """A read lock: many holders at once, no writer. Its view is read-only."""

    __slots__ = ()
    exclusive = False

    def __enter__(self) -> memoryview:
        try:
            del self._free
        except BaseException as error:
            raise self._not_claimed(error) from None
        seat = None
        try:
            try:
                seat = self._table.pool.free.pop()
                code = lock_try_shared(seat.handle)
                code = lock_spin_shared(seat.handle) if code == BUSY else code
                if not code:
                    self._at = seat
                    view = self._view = seat.readable.toreadonly()
                    self._held = None
                    return view
                busy, seat = seat, None  # never to the pool twice: two threads would share it
                busy.abandon()
            except IndexError:
                pass  # no seat is free
            return slow.run(self._acquire(InThread(Deadline(self._timeout))))
        except BaseException:
            self._give_up(seat)
            raise

    async def __aenter__(self) -> memoryview:
        try:
            del self._free
        except BaseException as error:
            raise self._not_claimed(error) from None
        try:
            cohort = self._table.cohort
            if cohort.idle and self.plain:
                try:
                    if (task := cohort.tasks[cohort.native]) is not None:
                        code = lock_try_shared(cohort.handle)
                        code = lock_spin_shared(cohort.handle) if code == BUSY else code
                        if not code:
                            cohort.idle = SOLE
                            cohort.readers[task] = 1
                            self._task, self._at = task, cohort
                            view = self._view = cohort.readable.toreadonly()
                            return view
                except KeyError:  # another loop runs in this thread by now
                    pass
                except BaseException:
                    self._undo()
                    cohort.take_back()
                    raise
            elif cohort.readers and self.plain:
                joined = self._join(cohort)
                if joined is not None:
                    return joined
            return await self._acquire(self._way())
        except BaseException:
            self._unclaim()
            raise

    def _join(self, cohort: Cohort) -> memoryview | None:
        """Read together with the readers of this loop that are inside; None: not at once."""
        try:
            if cohort.thread != get_ident() or (task := cohort.tasks[cohort.native]) is None:
                return None
        except KeyError:  # another loop runs in this thread by now
            return None
        readers, before = cohort.readers, 0
        try:
            if task in readers:
                before = readers[task]
                cohort.try_join(task, before)  # never in vain, as it reads already
            elif not (cohort.queue or cohort.gate[0] or monotonic() > cohort.share_until):
                cohort.idle = False
                readers[task] = 1
                cohort.tally.joined += 1
            elif cohort.try_join(task, 0):
                return None
            self._task = task
            self._at = cohort
            view = self._view = cohort.readable.toreadonly()
            return view
        except BaseException:
            self._undo()
            cohort.give_up(task, before)
            raise

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        view: Any = self._view
        cohort: Any = self._at  # where it was entered, as a rule
        if view is None or (
            cohort.idle is not SOLE and (cohort.queue or cohort.writer is not None)
        ):
            self._leave_if_held()
            return DONE
        self._view = self._at = None
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        finally:
            readers, task = cohort.readers, self._task
            code = count = 0
            try:
                if cohort.idle is not SOLE and (count := readers[task]) > 1:
                    readers[task] = count - 1
                else:
                    del readers[task]
                    if not readers:
                        code = lock_release(cohort.handle)
                        cohort.share_until = 0.0  # with the next line: be_idle
                        cohort.idle = cohort.ended is None
            except BaseException:
                cohort.finish_leaving(task, count)
                raise
            finally:
                self._free = None
        if code or not (readers or cohort.ended is None):
            cohort.left(code)
        return DONE
