"""The adapters for asyncio and trio, as loops.py describes them. Import them through later.py."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from .._native import MARK
from .labels import LABEL

if TYPE_CHECKING:
    import trio


def adapt(native: object) -> "AsyncioLoop | TrioLoop":
    """Return the adapter for an event loop."""
    if isinstance(native, asyncio.AbstractEventLoop):
        return AsyncioLoop(native)
    return TrioLoop(native)


# ---- asyncio -------------------------------------------------------------------


class _AskAsyncio:
    """`asyncio.current_task` as a subscript."""

    def __getitem__(self, loop: asyncio.AbstractEventLoop) -> object:
        return asyncio.current_task(loop)


#: Before 3.14 asyncio.current_task is a lookup in this dictionary.
_asyncio_tasks: Any = (
    _AskAsyncio() if sys.version_info >= (3, 14) else asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # not in the stubs
)


class AsyncioWaiter:
    """A task that awaits a future.

    It sets its fields itself, as `TrioWaiter` does: a common base would cost each wait a call.
    """

    __slots__ = (
        "error",
        "exclusive",
        "granted",
        "label",
        "loop",
        "manner",
        "since",
        "task",
        "upgrading",
        "wakeup",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        exclusive: bool,
        task: object,
        manner: int = MARK,
        /,
    ) -> None:
        self.loop = loop
        self.exclusive = exclusive
        self.manner = manner
        self.upgrading = False
        self.task = task
        self.since = monotonic()
        self.label = LABEL.get()
        self.wakeup: asyncio.Future[None] = loop.create_future()
        self.granted = False
        self.error: Exception | None = None

    def can_wake(self) -> bool:
        return not (self.wakeup.done() or self.loop.is_closed())

    def wake(self) -> bool:
        try:
            self.wakeup.set_result(None)
        except (asyncio.InvalidStateError, RuntimeError):  # cancelled; the loop has ended
            return False
        return True


class AsyncioLoop:
    """Any implementation of asyncio's event loop, uvloop's included."""

    __slots__ = ("native", "waiter")
    tasks = _asyncio_tasks

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.native = loop
        self.waiter = partial(AsyncioWaiter, loop)  # faster than a method

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.native.add_reader(fd, callback)

    def unwatch(self, fd: int) -> None:
        if not self.native.is_closed():
            self.native.remove_reader(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.native.call_later(seconds, callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self.native.call_soon_threadsafe(callback)

    def is_running(self) -> bool:
        return self.native.is_running()

    def is_over(self) -> bool:
        return self.native.is_closed()

    def has_ended(self, task: "asyncio.Task[object]") -> bool:
        return task.done()


# ---- trio ----------------------------------------------------------------------


class TrioWaiter:
    """A task that is parked until it is rescheduled."""

    __slots__ = (
        "error",
        "exclusive",
        "granted",
        "label",
        "manner",
        "parked",
        "since",
        "task",
        "upgrading",
        "woken",
    )

    def __init__(self, exclusive: bool, task: object, manner: int) -> None:
        self.exclusive = exclusive
        self.manner = manner
        self.upgrading = False
        self.task = task
        self.since = monotonic()
        self.label = LABEL.get()
        self.parked: trio.lowlevel.Task | None = None  # only while it waits
        self.woken = False
        self.granted = False
        self.error: Exception | None = None

    @property
    def wakeup(self) -> Awaitable[None]:
        return self._wait()

    async def _wait(self) -> None:
        import trio

        def abort(_raise_cancel: object) -> "trio.lowlevel.Abort":
            self.parked = None
            self.woken = True  # too late for a grant
            return trio.lowlevel.Abort.SUCCEEDED

        if self.woken:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            self.parked = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

    def can_wake(self) -> bool:
        return not self.woken

    def wake(self) -> bool:
        import trio

        if self.woken:
            return False
        self.woken = True
        if self.parked is not None:
            trio.lowlevel.reschedule(self.parked)
            self.parked = None
        return True


class _AskTrio:
    """`trio.lowlevel.current_task` as a subscript."""

    def __getitem__(self, token: "trio.lowlevel.TrioToken") -> object:
        import trio

        try:
            if trio.lowlevel.current_trio_token() is token:
                return trio.lowlevel.current_task()
        except RuntimeError:  # trio does not run, or not right now (guest mode)
            pass
        return None


class TrioLoop:
    """Trio's event loop. A system task watches the descriptor, as trio has no callbacks."""

    __slots__ = ("_pump", "native")
    tasks = _AskTrio()

    def __init__(self, token: Any) -> None:
        self.native: trio.lowlevel.TrioToken = token
        self._pump: trio.CancelScope | None = None

    def waiter(self, exclusive: bool, task: object, manner: int = MARK) -> TrioWaiter:
        return TrioWaiter(exclusive, task, manner)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        import trio

        scope = self._pump = trio.CancelScope()

        async def pump() -> None:
            with scope:
                while not scope.cancel_called:
                    await trio.lowlevel.wait_readable(fd)
                    callback()

        trio.lowlevel.spawn_system_task(pump, name="shm_async: watch a descriptor")

    def unwatch(self, fd: int) -> None:
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        import trio

        async def wait() -> None:
            await trio.sleep(seconds)
            callback()

        trio.lowlevel.spawn_system_task(wait, name="shm_async: call later")

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self.native.run_sync_soon(callback)

    def is_running(self) -> bool:
        return not self.is_over()

    def has_ended(self, task: "trio.lowlevel.Task") -> bool:
        return getattr(task.coro, "cr_frame", None) is None

    def is_over(self) -> bool:
        import trio

        with contextlib.suppress(trio.RunFinishedError):
            self.native.run_sync_soon(int, idempotent=True)
            return False
        return True
