"""The ways to take a lock, as functions of a hold."""

import anyio
import anyio.lowlevel

from shm_async import Hold


async def enter_async(hold: Hold) -> None:
    async with hold:
        pass


async def enter(hold: Hold) -> None:
    with hold:
        pass


async def acquire(hold: Hold) -> None:
    await hold.acquire()


async def acquire_blocking(hold: Hold) -> None:
    hold.acquire_blocking()


async def acquire_nowait(hold: Hold) -> None:
    hold.acquire_nowait()


async def acquire_nowait_in_a_thread(hold: Hold) -> None:
    await anyio.to_thread.run_sync(hold.acquire_nowait)


WAYS = [enter_async, enter, acquire, acquire_blocking, acquire_nowait, acquire_nowait_in_a_thread]
