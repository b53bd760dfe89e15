"""ReadHold and WriteHold, and the shortest way in and out of a free lock.

That is what happens most, so `__aenter__` and `__aexit__` spell it out: a look at one flag,
one call into C, one view. They do what `Cohort.try_write`, `try_read`, `leave_write` and
`leave_read` do, which come into play as soon as anything is out of the ordinary.
"""

from collections.abc import Awaitable, Generator
from threading import get_ident
from types import TracebackType, coroutine
from typing import Any

from ._native import lock_release, lock_try_exclusive, lock_try_shared
from .hold import ALL, Hold

__all__ = ["ReadHold", "SpecialHold", "WriteHold"]


@coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


def _done() -> Awaitable[None]:
    """What can be awaited any number of times, and does nothing: `__aexit__` returns it.

    A generator that has ended: the interpreter asks it without a call, an allocation or a
    lookup, which an `async with` of a free lock notices.
    """
    ended = _nothing()
    next(ended, None)
    return ended


DONE = _done()


class WriteHold(Hold):
    """The write lock: one holder, nobody else. Its view is writable."""

    __slots__ = ()
    exclusive = True

    async def __aenter__(self) -> memoryview:
        cohort = self._region._cohort
        if cohort.idle and self._plain and self._at is None:
            try:
                task = cohort.tasks[cohort.native]
                if task and not lock_try_exclusive(cohort.handle):
                    cohort.idle = False
                    cohort.writer = task
                    cohort.kept_since = 0.0
                    self._at = cohort
                    view = self._view = cohort.writable[ALL]
                    return view
            except KeyError:  # another loop runs in this thread by now
                pass
            except BaseException:
                self._at = self._view = None
                cohort.take_back()
                raise
        return await self._acquire()

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        view, self._view = self._view, None
        cohort: Any = self._at  # not a Seat, as it was entered by __aenter__
        self._at = None
        if view is None:  # released in the block
            return DONE
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        if cohort.queue or cohort.writer is None:
            cohort.leave(self._task)
            return DONE
        try:
            code = lock_release(cohort.handle)
        finally:
            cohort.writer = None
            cohort.idle = True
        if code or cohort.ended:
            cohort.left(code)
        return DONE


class SpecialHold(WriteHold):
    """A write lock that begins in another manner than usual: always the long way in."""

    __slots__ = ()

    async def __aenter__(self) -> memoryview:
        return await self._acquire()

    def __enter__(self) -> memoryview:
        return self._acquire_blocking(self._timeout)


class ReadHold(Hold):
    """A read lock: many holders at once, no writer. Its view is read-only."""

    __slots__ = ()
    exclusive = False

    async def __aenter__(self) -> memoryview:
        cohort = self._region._cohort
        if cohort.idle and self._plain and self._at is None:
            try:
                task = cohort.tasks[cohort.native]
                if task and not lock_try_shared(cohort.handle):
                    cohort.idle = False
                    cohort.readers[task] = 1
                    cohort.kept_since = 0.0
                    self._task = task
                    self._at = cohort
                    view = self._view = cohort.readable[ALL]
                    return view
            except KeyError:  # another loop runs in this thread by now
                pass
            except BaseException:
                self._at = self._view = None
                cohort.take_back()
                raise
        elif cohort.readers and self._plain and self._at is None and cohort.thread == get_ident():
            try:
                task = cohort.tasks[cohort.native]
            except KeyError:  # another loop runs in this thread by now
                task = None
            if task and not cohort.try_join(task):
                self._task = task
                self._at = cohort
                view = self._view = cohort.readable[ALL]
                return view
        return await self._acquire()

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        view, self._view = self._view, None
        cohort: Any = self._at  # not a Seat, as it was entered by __aenter__
        self._at = None
        if view is None:  # released in the block
            return DONE
        try:
            view.release()
        except BufferError:
            pass  # an array or structure was made from it: stale from now on
        task, readers = self._task, cohort.readers
        if cohort.queue or cohort.writer is not None:
            cohort.leave(task)
            return DONE
        count = readers.pop(task)
        if count > 1:
            readers[task] = count - 1
        elif not readers:
            try:
                code = lock_release(cohort.handle)
            finally:
                cohort.idle = True
            if code or cohort.ended:
                cohort.left(code)
        return DONE
