"""Writers of one process that queue: stored together, each of them on its own terms."""

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from databases import Server, nobody_is_left
from proxies import Proxy
from waits import wait_until

from shm_async import LockLostError, SharedRegion
from shm_async._postgresql import group

pytestmark = pytest.mark.once

OpenOne = Callable[..., SharedRegion]


@pytest.fixture
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a group go on for as long as a slow machine needs."""
    monkeypatch.setattr(group, "MAX_KEEP", 3600.0)


async def slots(region: SharedRegion) -> list[int]:
    async with region.read_lock() as view:
        return list(view)


async def together(region: SharedRegion, *functions: Callable[[], Any]) -> None:
    """Run them once they all wait behind a reader, in this order."""
    async with anyio.create_task_group() as tasks:
        async with region.read_lock():
            for number, function in enumerate(functions, 1):
                tasks.start_soon(function)
                with anyio.fail_after(20):
                    while region.statistics().waiting < number:
                        await anyio.lowlevel.checkpoint()


@pytest.mark.usefixtures("time_enough")
async def test_writers_that_queue_are_one_store(open_one: OpenOne):
    async with open_one() as region:

        async def add() -> None:
            async with region.write_lock() as view:
                view[0] += 1

        before = region.generation
        await together(region, *[add] * 20)
        assert (await slots(region))[0] == 20
        assert region.generation == before + 2
        assert region.statistics().hand_overs == 19
        assert sum(region.statistics().waits) >= 20


@pytest.mark.usefixtures("time_enough")
async def test_a_block_that_raises_loses_its_own_change_alone(open_one: OpenOne):
    async with open_one() as region:

        async def add() -> None:
            async with region.write_lock() as view:
                view[0] += 1

        async def fail() -> None:
            with pytest.raises(ZeroDivisionError):
                async with region.write_lock() as view:
                    view[0] += 100
                    _ = 1 // 0

        await together(region, add, fail, add)
        assert (await slots(region))[0] == 2


@pytest.mark.usefixtures("time_enough")
async def test_a_block_that_changed_nothing_does_not_count(open_one: OpenOne):
    async with open_one() as region:
        async with region.write_lock() as view:
            view[0] = 5
        before = region.generation
        async with region.write_lock() as view:
            view[0] = 5
        assert region.generation == before


@pytest.mark.usefixtures("time_enough")
async def test_a_failed_store_tells_all_of_them(open_by_proxy: OpenOne, proxy: Proxy):
    errors = []
    async with open_by_proxy() as region:

        async def add() -> None:
            with pytest.raises(LockLostError) as caught:
                async with region.write_lock() as view:
                    view[0] += 1
                    proxy.requests = False
            errors.append(caught.value)
            proxy.cut()
            proxy.forward()

        await together(region, add, add, add)
        assert [each.committed for each in errors] == [None] * 3  # nobody could be asked
        assert len(set(map(id, errors))) == 3
        assert (await slots(region))[0] == 0


async def test_a_long_block_does_not_keep_those_before_it_waiting(open_one: OpenOne):
    stored = anyio.Event()
    async with open_one() as region:

        async def add() -> None:
            async with region.write_lock() as view:
                view[0] += 1
            stored.set()

        async def stay() -> None:
            async with region.write_lock() as view:
                view[1] = 1
                with anyio.fail_after(20):
                    await stored.wait()
                assert (await region.snapshot_async())[0] == 1  # it is in, and this one is not
                assert (await region.snapshot_async())[8] == 0

        await together(region, add, stay)
        assert (await slots(region))[:2] == [1, 1]


@pytest.mark.usefixtures("time_enough")
async def test_a_cancelled_block_of_a_group_stores_nothing(open_one: OpenOne):
    async with open_one() as region:

        async def add() -> None:
            async with region.write_lock() as view:
                view[0] += 1

        async def be_cancelled() -> None:
            with anyio.CancelScope() as scope:
                async with region.write_lock() as view:
                    view[0] += 100
                    scope.cancel()
                    await anyio.sleep_forever()

        await together(region, add, be_cancelled, add)
        assert (await slots(region))[0] == 2


async def test_writers_do_not_starve_readers_nor_readers_writers(open_one: OpenOne):
    async with open_one() as one, open_one() as other:
        stop = False

        async def write() -> None:
            while not stop:
                async with one.write_lock() as view:
                    view[0] += 1

        async def read() -> None:
            while not stop:
                await slots(one)

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(write)
                tasks.start_soon(read)
            with anyio.fail_after(20):
                for _ in range(5):
                    async with other.write_lock() as view:
                        view[1] += 1
                    await slots(other)
            stop = True
        assert (await slots(other))[1] == 5


def test_loops_and_threads_share_a_region(open_one: OpenOne, database: Server):
    region = open_one()

    async def count() -> None:
        async with region:
            for _ in range(10):
                async with region.write_lock() as view:
                    view[0] += 1

    with region:
        threads = [
            threading.Thread(target=anyio.run, args=(count,), kwargs={"backend": backend})
            for backend in ("asyncio", "trio")
        ]
        for thread in threads:
            thread.start()
        for _ in range(10):
            with region.write_lock() as view:
                view[0] += 1
        for thread in threads:
            thread.join(20)
        with region.read_lock() as view:
            assert view[0] == 30
    wait_until(lambda: nobody_is_left(database))
