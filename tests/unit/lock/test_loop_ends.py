"""The order in which tasks are served, and what outlives a cancelled task or an ended loop."""

import asyncio
import gc
import threading

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from rivals import Rival
from traces import our_descriptors

from shm_async import Hold, LockTimeoutError, Region, WouldBlockError
from shm_async._lock.adapters import AsyncioLoop


async def write(region: Region) -> None:
    async with region.write_lock():
        pass


def lock(region: Region, kind: str, **options: float) -> Hold:
    return region.read_lock(**options) if kind == "read" else region.write_lock(**options)


async def test_tasks_that_ask_again_and_again_are_served_in_turn(region: Region):
    came: list[int] = []
    served: list[int] = []

    async def ask(number: int) -> None:
        came.append(number)
        for _ in range(10):
            async with region.write_lock(fast_acquire=False):
                served.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(ask, number)
    assert served == came * 10


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_cancel_at_the_checkpoint_after_the_grant_gives_the_lock_back(
    region: Region, rival: Rival, kind: str
):
    hold = (region.read_lock if kind == "read" else region.write_lock)(fast_acquire=False)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await hold.acquire()
    assert scope.cancelled_caught
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")


def test_a_native_cancel_at_the_checkpoint_after_the_grant_gives_the_lock_back(
    region: Region, rival: Rival
):
    async def main() -> None:
        hold = region.write_lock(fast_acquire=False)
        task = asyncio.ensure_future(hold.acquire())
        while "free" in repr(hold):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")


@pytest.mark.parametrize("kind", ["read", "write"])
def test_what_is_held_when_its_loop_ends_stays_held(
    region: Region, rival: Rival, anyio_backend, kind: str
):
    backend, options = anyio_backend

    async def take() -> Hold:
        hold = lock(region, kind)
        await hold.acquire()
        return hold

    async def try_to_write() -> None:
        with pytest.raises(WouldBlockError):
            region.write_lock().acquire_nowait()
        with anyio.move_on_after(0.02) as scope:
            await region.write_lock().acquire()
        assert scope.cancelled_caught

    for release in (Hold.release, in_a_thread, dropped):
        hold = anyio.run(take, backend=backend, backend_options=options)
        anyio.run(try_to_write, backend=backend, backend_options=options)
        with pytest.raises(LockTimeoutError), region.write_lock(timeout=0.01):
            pytest.fail("two are inside")
        assert hold.view[0] == 0
        assert rival.do("try-exclusive") == "busy"
        if release is dropped:
            with pytest.warns(ResourceWarning, match="dropped while held"):
                del hold
                gc.collect()
        else:
            release(hold)
        assert rival.do("try-exclusive") == "done"
        rival.do("unlock")
        with region.read_lock():  # nobody is told of a death
            pass


def in_a_thread(hold: Hold) -> None:
    thread = threading.Thread(target=hold.release)
    thread.start()
    thread.join()


def dropped(hold: Hold) -> None:
    """Of the caller's."""


def test_a_hold_is_released_and_converted_in_its_own_event_loop(region: Region):
    """Two loops that take turns in one thread."""
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    hold = region.read_lock()
    first.run_until_complete(hold.acquire())

    async def misuse() -> None:
        for use in (hold.release, hold.upgrade_nowait, hold.downgrade):
            with pytest.raises(RuntimeError, match="belongs to an event loop"):
                use()
        with pytest.raises(RuntimeError, match="belongs to an event loop"):
            await hold.upgrade()
        with pytest.raises(RuntimeError, match="in use"):
            await hold.acquire()

    async def release() -> None:
        with pytest.raises(RuntimeError, match="has ended"):
            await hold.upgrade()
        hold.release()

    second.run_until_complete(misuse())
    first.close()
    second.run_until_complete(release())
    second.run_until_complete(write(region))
    second.close()


async def after_a_wait(region: Region, rival: Rival) -> None:
    rival.do("exclusive")
    task = asyncio.ensure_future(write(region))
    while not region.statistics().kernel_requests:
        await asyncio.sleep(0)
    rival.do("unlock")
    await task


async def after_a_change(region: Region, _rival: Rival) -> None:
    task = asyncio.ensure_future(region.wait_changed())
    await asyncio.sleep(0)
    await write(region)
    await task


@pytest.mark.parametrize("before", [after_a_wait, after_a_change])
def test_a_loop_that_ends_before_it_closes_its_part_leaves_no_descriptor(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch, before
):
    """Another thread tells a loop to close its part, in the last moment before the loop ends."""
    loop = asyncio.new_event_loop()
    descriptors = our_descriptors()
    shared = Region.attach(region.name)
    loop.run_until_complete(before(shared, rival))
    monkeypatch.setattr(AsyncioLoop, "is_running", lambda _: True)
    closer = threading.Thread(target=shared.close)
    closer.start()
    closer.join()
    assert our_descriptors() != descriptors  # the loop has not done it
    gc.disable()
    try:
        loop.close()
        assert our_descriptors() == descriptors
    finally:
        gc.enable()
