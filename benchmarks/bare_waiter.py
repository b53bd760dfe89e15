"""The least that `await` on flock(2) takes: a thread in C, an eventfd, a future.

It is no lock that one could use: it cannot be cancelled, and forgets nothing and nobody. It shows
how much of a hand-over is the price of the two wake-ups, of the thread and of the event loop.
"""

import asyncio
import ctypes
import fcntl
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.peers import AsyncHandle, Pair, open_lock_file


@cache
def library() -> Any:
    with tempfile.TemporaryDirectory() as directory:
        source, made = Path(__file__).with_name("bare_waiter.c"), f"{directory}/bare_waiter.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-pthread", "-o", made, str(source)]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(made)
    loaded.bare_new.restype = ctypes.c_void_p
    loaded.bare_ask.argtypes = loaded.bare_end.argtypes = [ctypes.c_void_p]
    return loaded


def bare_waiter(name: str) -> AsyncHandle:
    """Must be made in the event loop that uses it, and used by one task."""
    c, loop = library(), asyncio.get_running_loop()
    fd, event = open_lock_file(name), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    waiter = c.bare_new(fd, event)
    future: asyncio.Future[None] | None = None

    def granted() -> None:
        os.eventfd_read(event)
        assert future is not None
        future.set_result(None)

    async def acquire() -> None:
        nonlocal future
        future = loop.create_future()
        c.bare_ask(waiter)
        await future

    async def release() -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    def close() -> None:
        loop.remove_reader(event)
        c.bare_end(waiter)
        os.close(event)
        os.close(fd)

    loop.add_reader(event, granted)
    pair = Pair(acquire, release)
    return AsyncHandle(lambda: pair, close=close)
