"""Waits for things that happen in the kernel or another process, and send no event."""

import time
from collections.abc import Callable

import anyio


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what happens in the kernel or another process and sends no event."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Let other tasks go on until it is so."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.001)
