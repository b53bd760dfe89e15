"""What asyncio and trio do each in its own way: who runs, waking a task, watching a descriptor."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio.lowlevel

if TYPE_CHECKING:
    import trio

#: A task of either library; compared by identity only.
Task = object

#: Stands for the current task in a callback, where there is none.
NO_TASK: Task = "no task"


class Waiter(Protocol):
    """One task that waits for its turn.

    Invariant: `granted` and `error` are set at most once, before the task is
    woken, and never both. `wake` returns False when the task has been cancelled
    already and will withdraw by itself; then neither counts.
    """

    exclusive: bool
    task: Task
    granted: bool
    error: Exception | None

    async def wait(self) -> None: ...
    def wake(self) -> bool: ...


class Loop(Protocol):
    """One event loop, seen from its own thread."""

    @property
    def current_task(self) -> Callable[[], Any]:
        """Call it for the running task; None in a callback, or if another loop runs."""

    def waiter(self, exclusive: bool, task: Task) -> Waiter: ...
    def watch(self, fd: int, callback: Callable[[], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def call_from_thread(self, callback: Callable[[], None]) -> None: ...
    def is_running(self) -> bool: ...
    def is_over(self) -> bool: ...


def current_loop() -> object:
    """What identifies the running event loop. Raises RuntimeError where none runs."""
    return anyio.lowlevel.current_token().native_token


def loop_is_running() -> bool:
    """Whether the calling thread is inside an event loop."""
    try:
        current_loop()
    except RuntimeError:
        return False
    return True


def adapt(native: object) -> Loop:
    """The adapter for what `current_loop` returned."""
    if isinstance(native, asyncio.AbstractEventLoop):
        return AsyncioLoop(native)
    return TrioLoop(native)


# ---- asyncio -------------------------------------------------------------------

#: asyncio.current_task(loop); before 3.12 that is a Python function around this lookup,
#: and as slow as a system call.
_current_task: Callable[[asyncio.AbstractEventLoop], Task | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]  # not in the stubs
)


class AsyncioWaiter:
    """A task that awaits a future."""

    __slots__ = ("error", "exclusive", "future", "granted", "task")

    def __init__(self, exclusive: bool, task: Task, future: "asyncio.Future[None]") -> None:
        self.exclusive = exclusive
        self.task = task
        self.future = future
        self.granted = False
        self.error: Exception | None = None

    async def wait(self) -> None:
        await self.future

    def wake(self) -> bool:
        if self.future.done() or self.future.get_loop().is_closed():
            return False
        self.future.set_result(None)
        return True


class AsyncioLoop:
    """Any implementation of asyncio's event loop, uvloop's included."""

    __slots__ = ("current_task", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.current_task: Callable[[], Any] = partial(_current_task, loop)

    def waiter(self, exclusive: bool, task: Task) -> AsyncioWaiter:
        return AsyncioWaiter(exclusive, task, self.loop.create_future())

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.loop.add_reader(fd, callback)

    def unwatch(self, fd: int) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(fd)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(callback)

    def is_running(self) -> bool:
        return self.loop.is_running()

    def is_over(self) -> bool:
        return self.loop.is_closed()


# ---- trio ----------------------------------------------------------------------


class TrioWaiter:
    """A task that is parked until it is rescheduled."""

    __slots__ = ("error", "exclusive", "granted", "parked", "task", "woken")

    def __init__(self, exclusive: bool, task: Task) -> None:
        self.exclusive = exclusive
        self.task = task
        self.parked: trio.lowlevel.Task | None = None  # only while it waits
        self.woken = False
        self.granted = False
        self.error: Exception | None = None

    async def wait(self) -> None:
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

    def wake(self) -> bool:
        import trio

        if self.woken:
            return False
        self.woken = True
        if self.parked is not None:
            trio.lowlevel.reschedule(self.parked)
            self.parked = None
        return True


class TrioLoop:
    """The descriptor is watched by a system task: trio has no callbacks for that."""

    __slots__ = ("_pump", "token")

    def __init__(self, token: Any) -> None:
        self.token: trio.lowlevel.TrioToken = token
        self._pump: trio.CancelScope | None = None

    def current_task(self) -> Any:
        import trio

        try:
            if trio.lowlevel.current_trio_token() is self.token:
                return trio.lowlevel.current_task()
        except RuntimeError:  # trio does not run, or not right now (guest mode)
            pass
        return None

    def waiter(self, exclusive: bool, task: Task) -> TrioWaiter:
        return TrioWaiter(exclusive, task)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        import trio

        scope = self._pump = trio.CancelScope()

        async def pump() -> None:
            with scope:
                while not scope.cancel_called:
                    await trio.lowlevel.wait_readable(fd)
                    callback()

        trio.lowlevel.spawn_system_task(pump, name="shm_async: watch for the lock")

    def unwatch(self, fd: int) -> None:
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        self.token.run_sync_soon(callback)

    def is_running(self) -> bool:
        return not self.is_over()

    def is_over(self) -> bool:
        import trio

        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(int, idempotent=True)
            return False
        return True
