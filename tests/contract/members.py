"""Members: each uses the lock of one region in a way of its own, and does what a test tells it.

A test drives all of them in the same words, without waiting for them itself:

    entering = member.begin("enter", "write")  # a Future
    member.do("leave")                         # begins, and returns the result

The words are the methods of `Blocking` and `Awaiting`.
"""

import contextlib
import inspect
import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal
from rivals import Rival

from shm_async import Hold, Region, WouldBlockError

PATIENCE = 20  # seconds; a member that needs longer is stuck


class User:
    """One lock of a region, and what can be done with it at once."""

    hold: Hold

    def __init__(self, region: Region) -> None:
        self.region = region

    def lock(self, kind: str, **options: Any) -> Hold:
        make = self.region.write_lock if kind == "write" else self.region.read_lock
        self.hold = make(**options)
        return self.hold

    def try_to_enter(self, kind: str) -> bool:
        """Enter if that needs no waiting: whether it did."""
        try:
            self.lock(kind).acquire_nowait()
        except WouldBlockError:
            return False
        return True

    def leave(self) -> None:
        self.hold.release()

    def downgrade(self) -> None:
        self.hold.downgrade()

    def view(self) -> memoryview:
        return self.hold.view

    def store(self, value: int) -> None:
        self.hold.view[0] = value

    def load(self) -> int:
        return self.hold.view[0]


class Blocking(User):
    """It takes the lock by `acquire_blocking`, in a thread."""

    def enter(self, kind: str, timeout: float | None = None) -> None:
        self.lock(kind).acquire_blocking(timeout)

    def enter_again(self) -> None:
        self.hold.acquire_blocking()

    def upgrade(self) -> bool:
        return self.hold.upgrade_blocking()


class With(Blocking):
    """It takes the lock by `with`, in a thread."""

    def enter(self, kind: str, timeout: float | None = None) -> None:
        self.lock(kind, timeout=timeout).__enter__()

    def enter_again(self) -> None:
        self.hold.__enter__()

    def leave(self) -> None:
        self.hold.__exit__(None, None, None)


class Awaiting(User):
    """It takes the lock by `acquire`, in a task."""

    async def enter(self, kind: str, timeout: float | None = None) -> None:
        with anyio.fail_after(timeout):
            await self.lock(kind).acquire()

    async def enter_again(self) -> None:
        await self.hold.acquire()

    async def upgrade(self) -> bool:
        return await self.hold.upgrade()


class AsyncWith(Awaiting):
    """It takes the lock by `async with`, in a task."""

    async def enter(self, kind: str, timeout: float | None = None) -> None:
        with anyio.fail_after(timeout):
            await self.lock(kind).__aenter__()

    async def enter_again(self) -> None:
        await self.hold.__aenter__()

    async def leave(self) -> None:
        await self.hold.__aexit__(None, None, None)


class Member(ABC):
    """A user of the lock that does one thing after the other, somewhere else than the test."""

    pid: int  # of its process

    @abstractmethod
    def begin(self, word: str, *arguments: Any) -> "Future[Any]":
        """Begin to do one thing; the result comes later."""

    def do(self, word: str, *arguments: Any) -> Any:
        return self.begin(word, *arguments).result(PATIENCE)

    @contextlib.contextmanager
    def inside(self, kind: str) -> Iterator[None]:
        """The while in which it holds the lock of that kind."""
        self.do("enter", kind)
        yield
        self.do("leave")

    @abstractmethod
    def close(self) -> None:
        """End it."""


class Thread(Member):
    """A thread of this process."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.pid = os.getpid()
        self.executor = ThreadPoolExecutor(1)

    def begin(self, word: str, *arguments: Any) -> "Future[Any]":
        return self.executor.submit(getattr(self.user, word), *arguments)

    def close(self) -> None:
        self.executor.shutdown()


class Task(Member):
    """A task of the event loop behind a portal."""

    def __init__(self, user: User, portal: BlockingPortal) -> None:
        self.user = user
        self.pid = os.getpid()
        self.portal = portal
        self.scope: anyio.CancelScope  # of what is under way
        self.send, self.receive = anyio.create_memory_object_stream[Any](10)
        self.over = portal.start_task_soon(self._serve)

    def begin(self, word: str, *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self.portal.call(self.send.send_nowait, (future, word, arguments))
        return future

    def cancel(self) -> None:
        """Cancel what is under way: it ends with a CancelledError."""
        self.portal.call(self.scope.cancel)

    async def _serve(self) -> None:
        with self.receive:
            async for future, word, arguments in self.receive:
                with anyio.CancelScope() as self.scope:
                    await self._answer(future, getattr(self.user, word), arguments)
                if self.scope.cancelled_caught:
                    future.cancel()

    async def _answer(self, future: "Future[Any]", work: Callable[..., Any], arguments: Any):
        try:
            result = work(*arguments)
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def close(self) -> None:
        self.portal.call(self.send.close)
        self.over.result(PATIENCE)


class Process(Member):
    """A process that has attached the region."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("fork")
        self.here, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, name))
        self.process.start()
        self.pid = self.process.pid or 0
        there.close()
        self.executor = ThreadPoolExecutor(1)

    def begin(self, word: str, *arguments: Any) -> "Future[Any]":
        return self.executor.submit(self._ask, word, arguments)

    def _ask(self, word: str, arguments: Any) -> Any:
        self.here.send((word, arguments))
        result, error = self.here.recv()
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.join(PATIENCE)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.here.send(None)
        self.process.join(PATIENCE)
        self.process.close()
        self.executor.shutdown()
        self.here.close()


def _serve(there: Connection, name: str) -> None:
    with Region.attach(name, dtype="uint64") as region:
        user = With(region)
        while (order := there.recv()) is not None:
            word, arguments = order
            try:
                there.send((getattr(user, word)(*arguments), None))
            except Exception as error:
                there.send((None, error))


MODES = {"read": "shared", "write": "exclusive"}


class Flock(Member):
    """A program that uses flock(2) on the object and knows nothing of us."""

    def __init__(self, name: str) -> None:
        self.rival = Rival(name)
        self.pid = self.rival.process.pid
        self.executor = ThreadPoolExecutor(1)

    def begin(self, word: str, *arguments: Any) -> "Future[Any]":
        return self.executor.submit(getattr(self, word), *arguments)

    def enter(self, kind: str) -> None:
        assert self.rival.do(MODES[kind]) == "done"

    def try_to_enter(self, kind: str) -> bool:
        return self.rival.do(f"try-{MODES[kind]}") == "done"

    def leave(self) -> None:
        self.rival.do("unlock")

    def close(self) -> None:
        self.executor.shutdown()
        self.rival.close()
