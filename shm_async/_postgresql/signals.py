"""A sign between tasks of one loop: an event that costs next to nothing until a task waits."""

import asyncio

import anyio

from .._lock.loops import current_loop

__all__ = ["Signal", "current_asyncio"]


class Signal:
    """An event of one loop. In asyncio a wait for it is a bare future, at half the price.

    Invariant: `_waiting` has the futures of the tasks that wait in asyncio.
    """

    __slots__ = ("_event", "_loop", "_set", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Make one for that loop of asyncio; None: for trio."""
        self._loop = loop
        self._set = False
        self._event: anyio.Event | None = None
        self._waiting: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()
        for future in self._waiting or ():
            if not future.done():
                future.set_result(None)

    def is_set(self) -> bool:
        return self._set

    async def wait(self) -> None:
        """Wait until it is set; returns at once if it is, without a checkpoint."""
        if self._set:
            return
        if self._loop is not None:
            await self._wait_for_future(self._loop.create_future())
            return
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    async def _wait_for_future(self, future: "asyncio.Future[None]") -> None:
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(future)
        try:
            await future
        finally:
            self._waiting.remove(future)


def current_asyncio() -> asyncio.AbstractEventLoop | None:
    """Return the loop of `current_loop`, if it is one of asyncio's; None: it is trio's.

    Not `loops.running_asyncio`, which finds the host of a trio that runs as a guest.
    """
    loop = current_loop()
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None
