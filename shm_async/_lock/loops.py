"""Adapters for asyncio and trio: the running task, waking a task, watching a descriptor."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio.lowlevel

from .._native import MARK
from .labels import LABEL

if TYPE_CHECKING:
    import trio

#: A task of either library; compared by identity only.
Task = object

#: Stands for the current task in a callback, where there is none.
NO_TASK: Task = "no task"


class Tasks(Protocol):
    """The running task of each event loop."""

    def __getitem__(self, native: Any, /) -> Any: ...


class Waiter(Protocol):
    """One task that waits for its turn.

    Invariant: `granted` and `error` are set at most once, before the task runs on, and never
    both. `wake` returns False if the task has been cancelled already, also by a signal handler
    at this moment, and will withdraw by itself. `can_wake` tells that in advance.
    """

    exclusive: bool
    manner: int  # of its beginning to write, see locking.h
    upgrading: bool  # it reads meanwhile, and writes once no other task reads
    task: Task
    since: float  # the time when it began to wait, in seconds of the monotonic clock
    label: str | None  # of the lock that it wants
    granted: bool
    error: Exception | None

    def wait(self) -> Awaitable[None]: ...
    def can_wake(self) -> bool: ...
    def wake(self) -> bool: ...


class Loop(Protocol):
    """One event loop, seen from its own thread.

    `tasks[native]` is the running task. In a callback, or if another loop runs, it is None or a
    KeyError. It is a subscript, as every uncontended lock needs it and a call costs more.

    One adapter watches one descriptor. Callbacks must not raise, and are forgotten when the
    loop ends. `call_later` raises RuntimeError if the loop has ended.
    """

    @property
    def native(self) -> object: ...
    @property
    def tasks(self) -> "Tasks": ...
    def waiter(self, exclusive: bool, task: Task) -> Waiter: ...
    def watch(self, fd: int, callback: Callable[[], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def call_later(self, seconds: float, callback: Callable[[], None]) -> None: ...
    def call_from_thread(self, callback: Callable[[], None]) -> None: ...
    def is_running(self) -> bool: ...
    def is_over(self) -> bool: ...
    def has_ended(self, task: Any) -> bool: ...


def current_loop() -> object:
    """Return the identity of the running event loop. Raises RuntimeError if none runs."""
    return anyio.lowlevel.current_token().native_token


def loop_is_running() -> bool:
    """Tell whether the calling thread is inside an event loop."""
    try:
        current_loop()
    except RuntimeError:
        return False
    return True


def runs_another_loop(native: object) -> bool:
    """Tell whether the calling thread is inside another event loop than that one."""
    try:
        return current_loop() is not native
    except RuntimeError:
        return False


def adapt(native: object) -> Loop:
    """Return the adapter for an event loop from `current_loop`."""
    if isinstance(native, asyncio.AbstractEventLoop):
        return AsyncioLoop(native)
    return TrioLoop(native)


# ---- asyncio -------------------------------------------------------------------


class _AskAsyncio:
    """`asyncio.current_task` as a subscript."""

    def __getitem__(self, loop: asyncio.AbstractEventLoop) -> Task | None:
        return asyncio.current_task(loop)


#: Before 3.14 asyncio.current_task is a lookup in this dictionary.
_asyncio_tasks: Tasks = (
    _AskAsyncio() if sys.version_info >= (3, 14) else asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # not in the stubs
)


class AsyncioWaiter:
    """A task that awaits a future."""

    __slots__ = (
        "error",
        "exclusive",
        "future",
        "granted",
        "label",
        "manner",
        "since",
        "task",
        "upgrading",
    )

    def __init__(self, exclusive: bool, task: Task, future: "asyncio.Future[None]") -> None:
        self.exclusive = exclusive
        self.manner = MARK
        self.upgrading = False
        self.task = task
        self.since = 0.0
        self.label = LABEL.get()
        self.future = future
        self.granted = False
        self.error: Exception | None = None

    def wait(self) -> "asyncio.Future[None]":
        return self.future

    def can_wake(self) -> bool:
        return not self.future.done() and not self.future.get_loop().is_closed()

    def wake(self) -> bool:
        try:
            self.future.set_result(None)
        except (asyncio.InvalidStateError, RuntimeError):  # cancelled; the loop has ended
            return False
        return True


class AsyncioLoop:
    """Any implementation of asyncio's event loop, uvloop's included."""

    __slots__ = ("native",)
    tasks = _asyncio_tasks

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.native = loop

    def waiter(self, exclusive: bool, task: Task) -> AsyncioWaiter:
        return AsyncioWaiter(exclusive, task, self.native.create_future())

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

    def __init__(self, exclusive: bool, task: Task) -> None:
        self.exclusive = exclusive
        self.manner = MARK
        self.upgrading = False
        self.task = task
        self.since = 0.0
        self.label = LABEL.get()
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

    def __getitem__(self, token: "trio.lowlevel.TrioToken") -> Task | None:
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
