"""Event loops: the interface of their adapters, and which loop the calling thread runs."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from .._native import MARK
from . import later

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

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

    @property
    def wakeup(self) -> Awaitable[None]: ...  # to be awaited, once
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
    def waiter(self, exclusive: bool, task: Task, manner: int = MARK, /) -> Waiter: ...
    def watch(self, fd: int, callback: Callable[[], None]) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def call_later(self, seconds: float, callback: Callable[[], None]) -> None: ...
    def call_from_thread(self, callback: Callable[[], None]) -> None: ...
    def is_running(self) -> bool: ...
    def is_over(self) -> bool: ...
    def has_ended(self, task: Any) -> bool: ...


def current_loop() -> object:
    """Return the identity of the running event loop. Raises RuntimeError if none runs."""
    return later.lowlevel.current_token().native_token


def loop_is_running() -> bool:
    """Tell whether the calling thread is inside an event loop."""
    if not may_run_a_loop():
        return False
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
    return later.adapters.adapt(native)


# ---- without an import -----------------------------------------------------------
#
# A thread can run a loop only of a library that is imported already. While another thread
# imports that library, the module is there, but the function may not be yet.


def may_run_a_loop() -> bool:
    """Tell whether `current_loop` is worth a call, and with it the import of anyio.

    It says False only if that would raise RuntimeError.
    """
    return running_asyncio() is not None or trio_runs()


def running_asyncio() -> "AbstractEventLoop | None":
    """Return the loop of asyncio that the calling thread runs, if any."""
    ask = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if ask is None:
        return None
    try:
        loop: AbstractEventLoop = ask()
    except RuntimeError:
        return None
    return loop


def trio_runs() -> bool:
    """Tell whether the calling thread is inside trio."""
    ask = getattr(sys.modules.get("trio.lowlevel"), "current_trio_token", None)
    if ask is None:
        return False
    try:
        ask()
    except RuntimeError:
        return False
    return True
