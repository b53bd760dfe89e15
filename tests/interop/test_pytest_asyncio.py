"""The lock under pytest-asyncio, as many projects test: strict mode, its own loop."""

import asyncio

import pytest
from rivals import Rival

from shm_async import Region


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # keeps anyio's plugin from running these three times


@pytest.mark.asyncio
async def test_async_with_and_asyncio_timeouts(region: Region):
    async with region.write_lock() as view:
        view[0] = 1

        async def other() -> None:
            async with region.read_lock():
                pass

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(other()), 0.02)
    await asyncio.wait_for(other(), 5)
    assert region.buffer[0] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_cancel_that_comes_with_the_grant_gives_it_back(region: Region, rival: Rival, kind):
    """The lock was handed to the task, and then, before it ran, the task was cancelled."""
    async with region.write_lock():
        task = asyncio.ensure_future(getattr(region, f"{kind}_lock")().acquire())
        await asyncio.sleep(0)  # it queues
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    async with region.write_lock():
        pass


@pytest.mark.asyncio
async def test_gather_counts_right(region: Region):
    async def increment() -> None:
        for _ in range(10):
            async with region.write_lock() as view:
                seen = view[0]
                await asyncio.sleep(0)
                view[0] = seen + 1

    await asyncio.gather(*(increment() for _ in range(20)))
    assert region.buffer[0] == 200
