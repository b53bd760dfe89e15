"""An upgrade of a reader beside other read locks of its own thread or task."""

import threading

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from cohorts import queued
from waits import until

from shm_async import LockTimeoutError, Region, WouldBlockError

#: Tests that block the thread of their event loop for a moment.
blocks_the_loop = pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")


async def write(region: Region) -> None:
    async with region.write_lock():
        pass


@blocks_the_loop
async def test_an_upgrade_beside_a_read_lock_of_ones_own_is_told(region: Region, second: Region):
    async with region.read_lock():
        hold = second.read_lock()
        async with hold:
            with anyio.fail_after(5), pytest.raises(RuntimeError, match="for ever"):
                await hold.upgrade()
    with region.read_lock():
        hold = second.read_lock()
        with hold:
            with pytest.raises(RuntimeError, match="for ever"):
                hold.upgrade_blocking()
            with pytest.raises(LockTimeoutError):
                hold.upgrade_blocking(timeout=0.01)


async def test_a_reader_that_was_let_in_past_the_queue_upgrades_in_turn(region: Region):
    first, hold = region.read_lock(), region.read_lock()
    thread = threading.Thread(target=first.acquire_blocking)
    thread.start()
    thread.join()  # the lock may belong to anybody now
    async with anyio.create_task_group() as group:
        group.start_soon(write, region)
        await until(lambda: queued(region) == 1)
        with anyio.fail_after(5):
            assert (await hold.acquire()).readonly
            with pytest.raises(WouldBlockError):
                hold.upgrade_nowait()
            if "free" in repr(hold):  # the kernel took it away
                await hold.acquire()
        first.release()
        with anyio.fail_after(5):
            assert await hold.upgrade() is False
    generation = region.generation
    hold.view[0] = 7
    hold.downgrade()
    hold.release()
    assert region.generation == generation + 1
    async with hold as view:  # as any other from now on
        assert view[0] == 7
        assert await hold.upgrade() is True


async def test_an_upgrade_without_waiting_beside_ones_own_read_lock_would_block(
    region: Region, second: Region
):
    async with region.read_lock():
        hold = second.read_lock()
        async with hold:
            with pytest.raises(WouldBlockError) as caught:
                hold.upgrade_nowait()
            assert caught.value.still_held
            assert hold.view.readonly
    with region.read_lock():
        hold = second.read_lock()
        with hold:
            with pytest.raises(WouldBlockError) as caught:
                hold.upgrade_nowait()
            assert caught.value.still_held
            assert hold.view.readonly


async def test_a_block_of_another_task_of_the_thread_is_waited_for_by_an_upgrade(region: Region):
    """It is of the same thread, but its task can leave it."""
    leave = anyio.Event()

    async def read_in_the_thread() -> None:
        with region.read_lock():
            await leave.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(read_in_the_thread)
        await until(lambda: region._table.pool.reads_here())
        async with (hold := region.read_lock()):

            async def leave_soon() -> None:
                await until(lambda: region.statistics().waiting == 1)
                leave.set()

            group.start_soon(leave_soon)
            assert await hold.upgrade() is False
            assert not hold.view.readonly


async def test_a_hold_whose_upgrade_past_the_queue_failed_is_as_good_as_new(region: Region):
    first, hold = region.read_lock(), region.read_lock()
    thread = threading.Thread(target=first.acquire_blocking)
    thread.start()
    thread.join()  # the lock may belong to anybody now
    async with anyio.create_task_group() as group:
        group.start_soon(write, region)
        await until(lambda: queued(region) == 1)
        with anyio.fail_after(5):
            await hold.acquire()  # past the queue
        with anyio.move_on_after(0.05) as scope:
            await hold.upgrade()
        assert scope.cancelled_caught
        first.release()
    async with hold:
        assert await hold.upgrade() is True
