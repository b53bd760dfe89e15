"""The event loop that threads and scripts use regions through: one thread for the process.

`with` blocks of all threads share it, so that they queue, share and are stored together as tasks
do. A thread waits here for the answer; Ctrl-C ends its wait.
"""

import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from .._forks import importing

__all__ = ["Portal", "portal"]

T = TypeVar("T")

#: Seconds for which an interrupted call waits for its task to end.
PATIENCE = 10.0


class Portal:
    """A loop in a thread of its own, started for its first user and ended after its last.

    Not `anyio.from_thread.start_blocking_portal`, whose context manager waits for the thread when
    it is dropped: a forked child drops it, and has no such thread.
    """

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have no loop. For a forked child: a thread that it has not may have had the lock."""
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._users = 0
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def open(self) -> None:
        """Count a user; start the loop for the first."""
        with self._lock:
            if self._pid != os.getpid():  # a child that was forked in C
                self._forget()
            if self._portal is None:
                self._start()
            self._users += 1

    def _start(self) -> None:
        ready: Future[BlockingPortal] = Future()

        async def serve() -> None:
            async with BlockingPortal() as portal:
                if ready.set_running_or_notify_cancel():
                    ready.set_result(portal)
                    await portal.sleep_until_stopped()

        def run() -> None:
            try:
                anyio.run(serve)
            except BaseException as error:
                if not ready.done():
                    ready.set_exception(error)

        self._thread = threading.Thread(target=run, name="shm_async loop of threads", daemon=True)
        with importing:  # anyio imports its part for asyncio there
            self._thread.start()
            try:
                self._portal = ready.result()
            except BaseException:  # Ctrl-C, or it could not start: leave no thread behind
                if not (ready.cancel() or ready.exception()):
                    ready.result().call(ready.result().stop)
                raise

    def close(self) -> None:
        """Count a user less; end the loop after the last."""
        with self._lock:
            if self._pid != os.getpid():
                return
            self._users -= 1
            if self._users == 0 and self._portal is not None and self._thread is not None:
                self._portal.call(self._portal.stop)
                self._thread.join()
                _until_gone(self._thread.native_id)
                self._forget()

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


def _until_gone(thread: int | None) -> None:
    """Wait for the end of a thread that has ended for Python.

    At its very end OpenSSL frees what it had for the thread, under a lock. A child forked at that
    moment would inherit the lock, taken for ever, and hang when it connects.
    """
    end = time.monotonic() + PATIENCE
    while os.path.exists(f"/proc/self/task/{thread}") and time.monotonic() < end:
        time.sleep(0.0001)


portal = Portal()


os.register_at_fork(after_in_child=portal.begin_anew)
