"""The hold as an object: its states, its view, and wrong use."""

import errno
import gc
import os
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from waits import until

from shm_async import OwnerDiedError, Region, RegionClosedError


@pytest.fixture(params=["read", "write"])
def hold(region: Region, request: pytest.FixtureRequest):
    return getattr(region, f"{request.param}_lock")()


async def test_acquire_view_release(hold):
    view = await hold.acquire()
    assert hold.view is view
    assert (len(view), view.format) == (8, "Q")
    hold.release()
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_acquire_blocking_view_release(hold):
    view = hold.acquire_blocking()
    assert hold.view is view
    hold.release()
    with pytest.raises(ValueError, match="released"):
        view[0]


async def test_a_hold_can_be_used_again_in_any_way(hold):
    for _ in range(2):
        async with hold:
            pass
        with hold:
            pass
        await hold.acquire()
        hold.release()
        hold.acquire_blocking()
        hold.release()
        hold.acquire_nowait()
        hold.release()


async def test_a_hold_is_entered_once_at_a_time(hold):
    async with hold:
        for again in (hold.acquire_blocking, hold.acquire_nowait, hold.__enter__):
            with pytest.raises(RuntimeError, match="in use"):
                again()
        for again in (hold.acquire, hold.__aenter__):
            with pytest.raises(RuntimeError, match="in use"):
                await again()
        assert hold.view[0] == 0  # it is still held


async def test_a_hold_that_waits_is_in_use_too(region: Region):
    hold = region.write_lock()
    async with region.write_lock(), anyio.create_task_group() as group:
        group.start_soon(hold.acquire)
        while "waiting" not in repr(hold):
            await anyio.lowlevel.checkpoint()
        with pytest.raises(RuntimeError, match="in use"):
            await hold.acquire()
        with pytest.raises(RuntimeError, match="not held"):
            hold.release()
        group.cancel_scope.cancel()


def test_what_is_not_held_is_not_released(hold):
    with pytest.raises(RuntimeError, match="not held"):
        hold.release()
    with hold:
        hold.release()
        with pytest.raises(RuntimeError, match="not held"):
            hold.release()
        hold.acquire_blocking()


async def test_release_in_the_block_is_fine(region: Region, hold):
    async with hold:
        hold.release()
    with hold:
        hold.release()
    with region.write_lock():
        pass


def test_no_view_while_nothing_is_held(hold):
    with pytest.raises(RuntimeError, match="is not held: acquire it first"):
        hold.view  # noqa: B018  # reading it is what must raise


def test_repr_tells_the_state(region: Region):
    hold = region.write_lock()
    assert repr(hold) == f"<WriteHold of {region.name!r}, free>"
    with hold:
        assert repr(hold) == f"<WriteHold of {region.name!r}, writing>"


def test_an_exception_in_the_block_releases_and_passes(region: Region, hold):
    with pytest.raises(KeyError), hold:
        raise KeyError
    with region.write_lock():
        pass


async def test_an_exception_in_the_async_block_releases_and_passes(region: Region, hold):
    with pytest.raises(KeyError):
        async with hold:
            raise KeyError
    async with region.write_lock():
        pass


def test_a_readers_view_cannot_be_written(region: Region):
    with region.read_lock() as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1


async def test_a_timeout_is_not_for_coroutines(region: Region):
    with pytest.raises(TypeError, match=r"anyio\.fail_after"):
        async with region.write_lock(timeout=1):
            pytest.fail("refused")


async def test_an_async_hold_is_released_in_its_thread_only(region: Region):
    hold = region.write_lock()
    await hold.acquire()
    with pytest.raises(RuntimeError, match="release it in its thread"):
        await anyio.to_thread.run_sync(hold.release)
    hold.release()


def test_a_blocking_hold_may_be_released_by_another_thread(region: Region):
    hold = region.write_lock()
    hold.acquire_blocking()
    thread = threading.Thread(target=hold.release)
    thread.start()
    thread.join()
    with region.write_lock():
        pass


async def test_a_hold_dropped_while_held_warns_and_is_released(region: Region):
    for acquire in ("acquire_nowait", "acquire_blocking"):
        hold = region.write_lock()
        getattr(hold, acquire)()
        with pytest.warns(ResourceWarning, match="dropped while held"):
            del hold
            gc.collect()
        async with region.write_lock():
            pass


async def test_a_hold_acquired_by_one_task_can_be_released_by_another(region: Region):
    hold = region.write_lock()

    async with anyio.create_task_group() as group:
        group.start_soon(hold.acquire)
        await until(lambda: "writing" in repr(hold))
        hold.release()
    async with region.write_lock():
        pass


async def test_entering_a_closed_region(region: Region):
    hold = region.write_lock()
    region.close()
    for _ in range(2):
        with pytest.raises(RegionClosedError):
            async with hold:
                pass
        with pytest.raises(RegionClosedError), hold:
            pass


def told_of_the_loss(hold, handle) -> bool:
    """Whether that hold ends with an error if its descriptor is closed in its block."""
    with pytest.raises(OSError, match="closed by this program") as caught, hold:
        os.close(handle.fd)
    return caught.value.errno == errno.EBADFD


def test_a_brief_hold_that_lost_its_descriptor_leaves_the_region_half_written(region: Region):
    """However brief: within 20 microseconds a release does not check its descriptor."""
    with region.write_lock():
        pass
    handle = region._table.pool.seats[0].handle
    for _ in range(20):
        generation = region.generation
        assert told_of_the_loss(region.write_lock(), handle)
        assert region.generation > generation
        with pytest.raises(OwnerDiedError):
            region.read_lock().acquire_nowait()
        with region.write_lock(recover=True):
            pass


def test_a_brief_read_that_lost_its_descriptor_leaves_the_region_whole(region: Region):
    with region.read_lock():
        pass
    handle = region._table.pool.seats[0].handle
    for _ in range(20):
        assert told_of_the_loss(region.read_lock(), handle)
        with region.read_lock():
            pass
