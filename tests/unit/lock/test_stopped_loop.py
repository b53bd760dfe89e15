"""A blocking wait in a thread that runs an event loop is warned of, a free lock is not."""

import asyncio
import logging
import warnings

import anyio
import anyio.to_thread
import pytest
from rivals import Rival

from shm_async import LockTimeoutError, Region
from shm_async._lock import stopped_loop


@pytest.fixture(autouse=True)
def forget_places():
    """Other tests may have been warned at the same places."""
    stopped_loop._warned.clear()


@pytest.fixture
def busy(region: Region, rival: Rival) -> Region:
    """A region whose lock another process holds."""
    assert rival.do("exclusive") == "done"
    return region


def block(region: Region) -> None:
    with pytest.raises(LockTimeoutError), region.write_lock(timeout=0.01):
        pass


async def test_a_wait_that_stops_the_loop_is_warned_of_once_a_place(
    busy: Region, caplog: pytest.LogCaptureFixture
):
    with pytest.warns(ResourceWarning, match="stops its event loop: use `async with`") as caught:
        block(busy)
    assert caught[0].filename == __file__
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("shm_async", logging.WARNING)
    assert record.pathname == __file__
    assert "in block)" in record.getMessage()
    block(busy)  # the same place: warnings are errors here, and there is none
    with pytest.warns(ResourceWarning, match=busy.name):
        with pytest.raises(LockTimeoutError), busy.read_lock(timeout=0.01):
            pass
    assert len(caplog.records) == 2


async def test_a_warning_that_is_an_error_leaves_nothing_behind(busy: Region, rival: Rival):
    with pytest.raises(ResourceWarning, match="stops its event loop"), busy.write_lock(timeout=1):
        pass
    assert busy.statistics().waiting == 0
    rival.do("unlock")
    with busy.write_lock():
        pass


@pytest.mark.parametrize("use", ["snapshot", "resize", "upgrade"])
async def test_every_blocking_call_is_warned_of(region: Region, rival: Rival, use: str):
    hold = region.read_lock(timeout=0.01)
    if use == "upgrade":
        with hold:
            assert rival.do("shared") == "done"
            with pytest.warns(ResourceWarning), pytest.raises(LockTimeoutError):
                hold.upgrade_blocking()
        return
    assert rival.do("exclusive") == "done"
    with pytest.warns(ResourceWarning), pytest.raises(LockTimeoutError):
        if use == "resize":
            region.resize(9, timeout=0.01)
        else:
            with Region.attach(region.name, layout="raw") as raw:
                raw.snapshot(timeout=0.01)


async def test_what_does_not_wait_is_not_warned_of(
    busy: Region, rival: Rival, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(LockTimeoutError), busy.write_lock(timeout=0):
        pass
    with pytest.raises(BlockingIOError):
        busy.write_lock().acquire_nowait()
    rival.do("unlock")
    with busy.write_lock():
        pass
    assert caplog.records == []


async def test_a_worker_thread_may_wait(busy: Region):
    await anyio.to_thread.run_sync(block, busy)


def test_a_thread_without_a_loop_may_wait(busy: Region):
    block(busy)


def test_it_is_an_error_in_asyncios_debug_mode(busy: Region, rival: Rival):
    async def main() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="an error in asyncio's debug mode"):
                block(busy)
        rival.do("unlock")
        with busy.write_lock():
            pass

    asyncio.run(main(), debug=True)


def test_a_callback_of_the_loop_is_warned_of(busy: Region):
    async def main() -> None:
        done = asyncio.Event()

        def callback() -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                block(busy)
            seen.extend(caught)
            done.set()

        asyncio.get_running_loop().call_soon(callback)
        await done.wait()

    seen: list[warnings.WarningMessage] = []
    asyncio.run(main())
    assert [each.category for each in seen] == [ResourceWarning]
