"""Tasks of an event loop that belong to no block of the caller's, and waits that must not end.

A region may be entered and left in any order, by any task. So what it does beside its callers is
no child of theirs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel

from .failures import DisconnectedError
from .signals import Signal

__all__ = ["Job", "surely"]


class Job:
    """A task that runs by itself. An exception of it is logged, and ends it alone."""

    __slots__ = ("_ended", "_function", "_scope", "_task")

    def __init__(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        self._function = function
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        native = anyio.lowlevel.current_token().native_token
        self._task: Any  # asyncio itself keeps no strong reference
        if isinstance(native, asyncio.AbstractEventLoop):
            self._task = native.create_task(self._run(), name=name)
        else:
            import trio

            self._task = trio.lowlevel.spawn_system_task(self._run, name=name)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._function()
        except DisconnectedError:
            pass  # at the end of a loop, connections break before tasks do
        except Exception:
            logging.getLogger("shm_async").exception("a task of a region in PostgreSQL failed")
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """Have it end. From the loop's thread."""
        self._scope.cancel()

    async def end(self) -> None:
        """Have it end, and wait until it has, whatever happens to the caller meanwhile."""
        self.cancel()
        await surely(self._ended)


async def surely(event: anyio.Event | Signal) -> None:
    """Wait for what is bound to come soon; a cancellation is delivered after it."""
    cancelled = await _one_wait(event)  # a shield costs, and is needed only after a cancellation
    if cancelled is None:
        return
    with anyio.CancelScope(shield=True):
        while not event.is_set():
            cancelled = await _one_wait(event) or cancelled
    raise cancelled


async def _one_wait(event: anyio.Event | Signal) -> BaseException | None:
    """Wait; returns what cancelled it: asyncio's own comes past a shield, too."""
    try:
        await event.wait()
    except anyio.get_cancelled_exc_class() as error:
        return error
    return None
