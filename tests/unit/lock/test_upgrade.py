"""Upgrades: a reader becomes the writer, and is told if others may have written in between."""

import threading

import anyio
import anyio.lowlevel
import pytest
from cohorts import queued
from rivals import Rival
from waits import until, wait_until

from shm_async import (
    LockTimeoutError,
    Region,
)

# ---- upgrade -----------------------------------------------------------------------------------


async def test_a_lone_reader_upgrades_in_place(region: Region, rival: Rival):
    hold = region.read_lock()
    async with hold as view:
        assert rival.do("try-shared") == "done"
        assert rival.do("unlock") == "done"
        assert await hold.upgrade() is True
        assert rival.do("try-shared") == "busy"
        assert region.generation % 2 == 1
        with pytest.raises(ValueError, match="released"):
            view[0]
        hold.view[0] = 7
    assert region.generation % 2 == 0
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    async with hold as view:  # the same hold reads again
        assert view[0] == 7
        assert view.readonly
        assert rival.do("try-shared") == "done"


def test_a_lone_thread_upgrades_in_place(region: Region, rival: Rival):
    hold = region.read_lock()
    with hold as view:
        assert hold.upgrade_blocking() is True
        assert rival.do("try-shared") == "busy"
        with pytest.raises(ValueError, match="released"):
            view[0]
        hold.view[0] = 7
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    with hold as view:
        assert view[0] == 7
        assert view.readonly


async def test_upgrade_tells_that_another_process_may_have_written(region: Region, rival: Rival):
    hold = region.read_lock()
    upgraded = []

    async def upgrade() -> None:
        async with hold:
            assert rival.do("shared") == "done"
            upgraded.append(await hold.upgrade())
            hold.view[0] = 1
            assert rival.do("try-shared") == "busy"

    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        await until(lambda: queued(region))
        with pytest.raises(RuntimeError, match="not held"):
            hold.view  # noqa: B018
        assert rival.do("exclusive") == "done"  # it writes, as the kernel took our lock away
        assert upgraded == []
        rival.do("unlock")
    assert upgraded == [False]


def test_upgrade_blocking_tells_that_another_process_may_have_written(region: Region, rival: Rival):
    hold = region.read_lock()
    with hold:
        assert rival.do("shared") == "done"
        timer = threading.Thread(target=lambda: (wait_until(lambda: not region._table.pool.free
            and region.statistics().waiting == 1), rival.do("unlock")))  # fmt: skip
        timer.start()
        assert hold.upgrade_blocking(10) is False
        timer.join()
        assert not hold.view.readonly
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


async def test_an_upgrader_waits_for_the_readers_of_its_loop_and_keeps_the_lock(
    region: Region, rival: Rival
):
    order: list[object] = []
    leave = anyio.Event()

    async def upgrade() -> None:
        hold = region.read_lock()
        async with hold:
            await anyio.sleep(0.01)  # the others come in
            order.append(await hold.upgrade())

    async def read() -> None:
        async with region.read_lock():
            await leave.wait()
            order.append("left")

    async def read_late() -> None:
        async with region.read_lock():
            order.append("late")

    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        group.start_soon(read)
        group.start_soon(read)
        await until(lambda: queued(region) == 1)
        group.start_soon(read_late)
        await until(lambda: queued(region) == 2)
        assert rival.do("try-exclusive") == "busy"
        leave.set()
    assert order == ["left", "left", True, "late"]


async def test_of_two_upgraders_of_a_loop_one_hears_true(region: Region):
    results = []
    inside = 0

    async def increment(barrier: anyio.Event) -> None:
        nonlocal inside
        hold = region.read_lock()
        async with hold as view:
            value = view[0]
            inside += 1
            await barrier.wait()
            kept = await hold.upgrade()
            results.append(kept)
            if not kept:
                value = hold.view[0]
            hold.view[0] = value + 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            barrier = anyio.Event()
            for _ in range(5):
                group.start_soon(increment, barrier)
            await until(lambda: inside == 5)
            barrier.set()
    assert sorted(results) == [False] * 4 + [True]
    assert region.buffer[0] == 5


async def test_of_two_upgraders_of_two_processes_one_hears_true(region: Region, other: Region):
    first, second = region.read_lock(), other.read_lock()
    results = []

    async def upgrade() -> None:
        async with first:
            await second.acquire()
            results.append(await first.upgrade())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(upgrade)
            await until(lambda: queued(region))
            assert await second.upgrade() is True
            second.release()
    assert results == [False]


def test_threads_that_upgrade_at_once_lose_no_update(region: Region):
    def count() -> None:
        for _ in range(50):
            hold = region.read_lock()
            with hold as view:
                value = view[0]
                if not hold.upgrade_blocking(timeout=20):
                    value = hold.view[0]
                hold.view[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert region.buffer[0] == 200


# ---- cancelled, timed out ----------------------------------------------------------------------


async def test_a_cancelled_upgrade_holds_nothing(region: Region, rival: Rival):
    hold = region.read_lock()
    assert rival.do("shared") == "done"
    async with hold:
        with anyio.move_on_after(0.01) as scope:
            await hold.upgrade()
        assert scope.cancelled_caught
        with pytest.raises(RuntimeError, match="not held"):
            hold.release()
    await until(lambda: all(cohort.idle for cohort in region._table.cohorts.values()))
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"


async def test_an_upgrade_that_is_cancelled_behind_readers_lets_the_next_in(
    region: Region, rival: Rival
):
    order = []
    leave = anyio.Event()
    scope = anyio.CancelScope()

    async def upgrade() -> None:
        hold = region.read_lock()
        async with hold:
            await anyio.sleep(0.01)  # the other comes in
            with scope:
                await hold.upgrade()
            order.append("cancelled")

    async def read() -> None:
        async with region.read_lock():
            await leave.wait()

    async def read_late() -> None:
        async with region.read_lock():
            order.append("late")

    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        group.start_soon(read)
        await until(lambda: queued(region) == 1)
        group.start_soon(read_late)
        await until(lambda: queued(region) == 2)
        assert order == []
        scope.cancel()
        await until(lambda: len(order) == 2)
        leave.set()
    assert sorted(order) == ["cancelled", "late"]
    assert rival.do("try-exclusive") == "done"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_upgrade_that_is_granted_and_cancelled_at_once_holds_nothing(
    region: Region, rival: Rival
):
    import asyncio

    reader, hold = region.read_lock(), region.read_lock()
    await reader.acquire()

    async def upgrade() -> None:
        async with hold:
            await hold.upgrade()

    task = asyncio.ensure_future(upgrade())
    await until(lambda: queued(region))
    reader.release()  # granted in this very turn of the loop
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rival.do("try-exclusive") == "done"


def test_an_upgrade_that_times_out_holds_nothing(region: Region, rival: Rival):
    hold = region.read_lock()
    assert rival.do("shared") == "done"
    with hold:
        with pytest.raises(LockTimeoutError, match=r"within 0\.01 s"):
            hold.upgrade_blocking(timeout=0.01)
        with pytest.raises(RuntimeError, match="not held"):
            hold.view  # noqa: B018
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    with hold:
        pass
