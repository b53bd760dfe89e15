"""The cohort: waits that end without the lock, by a cancellation or the end of a region or loop."""

import asyncio
import fcntl
import gc
import os
import random
import threading
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from cohorts import asking, idle, queued
from rivals import Rival, blocked_in_flock
from traces import our_descriptors, our_threads
from waits import until, wait_until

from shm_async import Region, RegionClosedError, RegionSizeError
from shm_async._lock import cohort

# ---- cancellation ------------------------------------------------------------------------------


async def test_a_cancelled_wait_holds_nothing_and_leaves_nothing(region: Region, rival: Rival):
    async with region.write_lock():
        pass
    rival.do("exclusive")
    with anyio.move_on_after(0.02) as scope:
        async with region.write_lock():
            pytest.fail("the rival has it")
    assert scope.cancelled_caught
    await until(lambda: idle(region))
    assert not blocked_in_flock(os.getpid())
    await until(lambda: not our_threads())
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"


async def test_cancelling_one_waiter_does_not_disturb_the_others(region: Region, rival: Rival):
    log: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(6)]

    async def wait(number: int) -> None:
        with scopes[number]:
            async with region.write_lock():
                log.append(number)

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(wait, number)
            await until(lambda n=number: queued(region) == n + 1)
        for number in (0, 2, 5):
            scopes[number].cancel()
        await until(lambda: queued(region) == 3)
        rival.do("unlock")
    assert log == [1, 3, 4]


async def test_readers_behind_a_cancelled_writer_join_the_readers(region: Region):
    inside = anyio.Event()
    scope = anyio.CancelScope()

    async def write() -> None:
        with scope:
            await region.write_lock().acquire()

    async def read() -> None:
        async with region.read_lock():
            inside.set()

    async with anyio.create_task_group() as group, region.read_lock():
        group.start_soon(write)
        await until(lambda: queued(region) == 1)
        group.start_soon(read)
        await until(lambda: queued(region) == 2)
        scope.cancel()
        with anyio.fail_after(20):
            await inside.wait()


async def test_a_new_waiter_while_a_request_is_called_off(region: Region, rival: Rival):
    rival.do("exclusive")
    for _ in range(50):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(region.write_lock().acquire)
                await until(lambda: asking(region))
                scope.cancel()
        # the request may still be on its way out
        with anyio.move_on_after(0.001):
            async with region.read_lock():
                pytest.fail("the rival has it")
    rival.do("unlock")
    with anyio.fail_after(20):
        async with region.write_lock() as view:
            view[0] = 1


@pytest.mark.timeout(120)
async def test_thousands_of_cancels_beside_a_busy_rival_lose_nothing(region: Region):
    """Cancels hit every stage of a wait; a second region of this process holds on and off."""
    generator = random.Random(7)
    stop = False
    entered = cancelled = 0

    async def be_in_the_way() -> None:
        with Region.attach(region.name) as other:
            while not stop:
                async with other.write_lock() as view:
                    view[1] += 1
                    await anyio.sleep(generator.random() / 2000)
                await anyio.sleep(generator.random() / 2000)

    async def attempt() -> None:
        nonlocal entered, cancelled
        for _ in range(150):
            with anyio.move_on_after(generator.random() / 500) as scope:
                async with region.write_lock() as view:
                    seen = view[0]
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                    view[0] = seen + 1
                    entered += 1
            cancelled += scope.cancelled_caught

    async with anyio.create_task_group() as outer:
        outer.start_soon(be_in_the_way)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(attempt)
        stop = True
    assert region.buffer[0] == entered
    assert entered > 0
    assert cancelled > 100
    await until(lambda: idle(region))
    async with region.write_lock():
        pass


# ---- truncated ---------------------------------------------------------------------------------


async def test_an_object_truncated_while_we_wait_is_told_at_the_grant(region: Region, rival: Rival):
    rival.do("exclusive")
    async with anyio.create_task_group() as group:

        async def wait(hold) -> None:
            with pytest.raises(RegionSizeError, match="truncated"):
                await hold.acquire()

        for hold in (region.write_lock(), region.read_lock(), region.write_lock()):
            group.start_soon(wait, hold)
        await until(lambda: queued(region) == 3)
        rival.do("truncate 4096")
        rival.do("unlock")
    assert rival.do("try-exclusive") == "done"


async def test_a_truncated_object_is_told_without_waiting_too(region: Region, rival: Rival):
    rival.do("truncate 0")
    for hold in (region.write_lock(), region.read_lock()):
        with pytest.raises(RegionSizeError):
            await hold.acquire()
        with pytest.raises(RegionSizeError):
            hold.acquire_nowait()
        with pytest.raises(RegionSizeError):
            hold.acquire_blocking()
    assert rival.do("try-exclusive") == "done"


# ---- the end of regions and loops --------------------------------------------------------------


async def test_closing_wakes_all_waiters(region: Region, rival: Rival):
    rival.do("exclusive")
    ended = 0

    async def wait() -> None:
        nonlocal ended
        with pytest.raises(RegionClosedError):
            await region.write_lock().acquire()
        ended += 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
        await until(lambda: queued(region) == 5)
        region.close()
    assert ended == 5
    assert our_threads() == set()


async def test_closing_in_a_block_keeps_the_lock_until_its_end(region: Region, rival: Rival):
    async with region.write_lock() as view:
        region.close()
        view[0] = 1
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


async def test_closing_from_another_thread_wakes_waiters_too(region: Region, rival: Rival):
    rival.do("exclusive")

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, close_soon, region)
        with pytest.raises(RegionClosedError):
            await region.write_lock().acquire()


def close_soon(region: Region) -> None:
    wait_until(lambda: blocked_in_flock(os.getpid()))
    region.close()


def test_one_region_serves_one_loop_after_the_other(region: Region, anyio_backend):
    backend, options = anyio_backend

    async def main() -> None:
        async with region.write_lock() as view:
            view[0] += 1
        with anyio.move_on_after(0.01):
            async with region.write_lock():
                await region.write_lock().acquire()

    async def contended() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(increment)

    async def increment() -> None:
        async with region.write_lock() as view:
            seen = view[0]
            await anyio.sleep(0.001)
            view[0] = seen + 1

    before = len(our_descriptors())
    for _ in range(20):
        with pytest.raises(RuntimeError, match="wait for itself"):
            anyio.run(main, backend=backend, backend_options=options)
        anyio.run(contended, backend=backend, backend_options=options)
    assert region.buffer[0] == 20 * 6
    assert len(our_descriptors()) <= before + 4


@pytest.mark.parametrize("close_loop", [False, True])
@pytest.mark.parametrize("close_region", [False, True])
def test_a_grant_that_a_stopped_loop_does_not_collect_is_given_back(
    region: Region, rival: Rival, close_loop: bool, close_region: bool
):
    loop = asyncio.new_event_loop()
    tasks = []

    def run() -> None:
        tasks.append(loop.create_task(region.write_lock().acquire()))
        loop.run_until_complete(asyncio.sleep(0.02))
        if close_loop:
            loop.close()

    rival.do("exclusive")
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    tasks[0]._log_destroy_pending = False
    if close_region:
        region.close()
    rival.do("unlock")
    wait_until(lambda: rival.do("try-exclusive") == "done")
    rival.do("unlock")
    loop.close()


def test_a_loop_that_ends_with_waiters_leaves_nothing_held(region: Region, rival: Rival):
    """Tasks that are never cancelled, only dropped with their loop."""
    rival.do("exclusive")
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(region.write_lock().acquire()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    rival.do("unlock")
    for task in tasks:
        task._log_destroy_pending = False
    del tasks, task
    gc.collect()

    async def main() -> None:
        async with region.write_lock() as view:
            view[0] += 1

    asyncio.run(main())
    assert region.buffer[0] == 1
    assert rival.do("try-exclusive") == "done"


# ---- a program that closes our descriptor ------------------------------------------------------


async def test_a_late_hand_over_without_a_descriptor_unlocks_no_other_file(
    region: Region, rival: Rival, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The number is another file's by then, and the hold too brief for its end to notice that."""
    monkeypatch.setattr(cohort, "MAX_PASSES", 0)  # each hand-over is late
    other = tmp_path / "other"
    other.touch()
    leave = anyio.Event()

    async def stay() -> None:
        async with region.write_lock():
            await leave.wait()
            ours = region._table.cohort
            handle, ours.share_until = ours.handle, time.monotonic() + ours.max_share
            opened = os.open(other, os.O_RDWR)
            os.dup2(opened, handle.fd)
            os.close(opened)
            numbers.append(handle.fd)
            fcntl.flock(handle.fd, fcntl.LOCK_EX)
            handle.since = time.monotonic_ns() + 10**9  # as if it had begun just now

    async def follow() -> None:
        async with region.write_lock():
            kept_out.append(rival.do("try-exclusive"))

    numbers: list[int] = []
    kept_out: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
        await until(lambda: queued(region))
        leave.set()
    assert kept_out == ["busy"]
    again = os.open(other, os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(again)
        os.close(numbers[0])
