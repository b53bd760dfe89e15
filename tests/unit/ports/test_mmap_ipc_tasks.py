"""The port of mmap-ipc for tasks: they convert, wait and are cancelled in their loop."""

import asyncio
import os

import anyio
import anyio.lowlevel
from rivals import Rival, blocked_in_flock
from sniffio import current_async_library
from waits import until

from shm_async.mmap_ipc import AsyncMmapIPC


async def test_tasks_convert_and_remove_as_threads_do(name: str):
    async with AsyncMmapIPC(name, 64) as shared:
        rival = Rival(name)
        try:
            assert await shared.remove_lock() is False
            assert await shared.acquire_read_lock() is True
            assert rival.do("try-exclusive") == "busy"
            assert await shared.acquire_write_lock() is True
            assert rival.do("try-shared") == "busy"
            assert await shared.acquire_read_lock() is True
            assert rival.do("try-shared") == "done"
            assert await shared.remove_lock() is True
            assert await shared.remove_lock() is False
        finally:
            rival.close()


async def test_tasks_of_one_object_exclude_each_other(name: str):
    inside = 0
    async with AsyncMmapIPC(name, 64) as shared:

        async def work() -> None:
            nonlocal inside
            await shared.acquire_write_lock()
            inside += 1
            assert inside == 1
            await anyio.lowlevel.checkpoint()
            assert inside == 1
            inside -= 1
            assert await shared.remove_lock() is True

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(work)


async def test_a_cancelled_wait_has_no_lock(name: str):
    async with AsyncMmapIPC(name, 64) as shared:
        rival = Rival(name)
        try:
            rival.do("exclusive")
            with anyio.move_on_after(0.05) as scope:
                await shared.acquire_write_lock()
            assert scope.cancelled_caught
            assert await shared.remove_lock() is False
            rival.do("unlock")  # the thread that waited may get the lock, and gives it back
            await until(lambda: rival.do("try-exclusive") == "done")
            rival.do("unlock")
            assert await shared.acquire_write_lock() is True
        finally:
            rival.close()


async def test_an_upgrade_waits_in_the_loop_and_other_tasks_go_on(name: str):
    async with AsyncMmapIPC(name, 64) as shared:
        rival = Rival(name)
        granted = []

        async def work() -> None:
            await shared.acquire_read_lock()
            granted.append(await shared.acquire_write_lock())
            granted.append(await shared.remove_lock())

        try:
            rival.do("shared")
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                while not blocked_in_flock(os.getpid()):  # this task runs while the other waits
                    await anyio.sleep(0.001)
                assert granted == []
                assert await shared.remove_lock() is False  # the other's is not mine
                rival.do("unlock")
            assert granted == [True, True]
        finally:
            rival.close()


async def test_a_cancelled_upgrade_has_no_lock_any_more(name: str):
    async with AsyncMmapIPC(name, 64) as shared:
        rival = Rival(name)
        try:
            rival.do("shared")
            await shared.acquire_read_lock()
            with anyio.move_on_after(0.05) as scope:
                await shared.acquire_write_lock()
            assert scope.cancelled_caught
            assert await shared.remove_lock() is False
            await until(lambda: rival.do("try-exclusive") == "done")
        finally:
            rival.close()


async def test_a_task_that_lost_its_lock_is_forgotten(name: str):
    async with AsyncMmapIPC(name, 64) as shared:
        await shared.acquire_read_lock()
        rival = Rival(name)
        assert rival.do("shared") == "done"
        with anyio.move_on_after(0.05):
            await shared.acquire_write_lock()  # cancelled, and what it read is lost with it
        assert not shared._holds
        rival.close()


async def test_it_can_be_closed_in_a_callback_of_its_loop(name: str):
    if current_async_library() == "asyncio":
        shared = AsyncMmapIPC(name, 64)
        asyncio.get_running_loop().call_soon(shared.close)
        await anyio.lowlevel.checkpoint()
        assert shared.region.closed
