"""The event loop that threads and scripts use regions through: one thread for the process.

`with` blocks of all threads share it, so that they queue, share and are stored together as tasks
do. A thread waits here for the answer; Ctrl-C ends its wait.
"""

import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = ["Portal", "portal"]

T = TypeVar("T")

#: Seconds for which an interrupted call waits for its task to end.
PATIENCE = 10.0


class Portal:
    """A loop in a thread of its own, started for its first user and ended after its last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pid = 0
        self._context: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None
        self._thread = 0  # its id for the kernel

    def open(self) -> None:
        """Count a user; start the loop for the first."""
        from anyio.from_thread import start_blocking_portal

        with self._lock:
            if self._pid != os.getpid():  # a forked child has no thread of its parent
                self._users, self._pid = 0, os.getpid()
            if not self._users:
                self._context = start_blocking_portal("asyncio")
                self._portal = self._context.__enter__()
                self._thread = self._portal.call(threading.get_native_id)
            self._users += 1

    def close(self) -> None:
        """Count a user less; end the loop after the last."""
        with self._lock:
            if self._pid != os.getpid():
                return
            self._users -= 1
            if self._users == 0 and self._context is not None:
                self._context.__exit__(None, None, None)
                self._context = self._portal = None
                _until_gone(self._thread)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run it in the loop and return what it returns. Ctrl-C cancels it, and waits for it."""
        portal = self._portal
        if portal is None or self._pid != os.getpid():
            raise RuntimeError("the region was entered in another process: enter it here, too")
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        future = portal.start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            if not ended.is_set():
                future.cancel()
                ended.wait(PATIENCE)
            raise


def _until_gone(thread: int) -> None:
    """Wait for the end of a thread that has ended for Python.

    At its very end OpenSSL frees what it had for the thread, under a lock. A child forked at that
    moment would inherit the lock, taken for ever, and hang when it connects.
    """
    end = time.monotonic() + PATIENCE
    while os.path.exists(f"/proc/self/task/{thread}") and time.monotonic() < end:
        time.sleep(0.0001)


portal = Portal()
