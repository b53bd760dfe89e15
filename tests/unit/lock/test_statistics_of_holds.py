"""How holds are counted, and which of them are logged."""

import logging
import time

import anyio
import anyio.lowlevel
import pytest
from cohorts import idle, queued, until_blocked
from rivals import Rival
from waits import until, wait_until

from shm_async import Region
from shm_async._lock import cohort


async def test_the_longest_hold_and_the_time_of_all_holds(region: Region):
    for lock in (region.read_lock(), region.write_lock()):
        async with lock:
            await anyio.sleep(0.02)
    with region.write_lock():
        assert region.statistics().holds == 2
    figures = region.statistics()
    assert 0.02 <= figures.longest_hold <= figures.held - 0.02 < 10
    assert figures.holds == 3


async def test_readers_whose_holds_overlap_count_as_one_hold(region: Region):
    async with region.read_lock():
        async with region.read_lock():
            pass
        with region.read_lock():  # of the thread
            pass
    assert region.statistics().holds == 2


@pytest.mark.parametrize("first", ["read", "write"])
@pytest.mark.parametrize("second", ["read", "write"])
async def test_the_end_of_a_hold_counts_once_whoever_comes_next(
    region: Region, first: str, second: str
):
    locks = {"read": region.read_lock, "write": region.write_lock}
    leave = anyio.Event()

    async def stay() -> None:
        async with locks[first]():
            await leave.wait()

    async def follow() -> None:
        async with locks[second]():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
        if (first, second) == ("read", "read"):  # it shares the hold of the first
            await anyio.wait_all_tasks_blocked()
        else:
            await until(lambda: queued(region))
        leave.set()
    figures = region.statistics()
    assert figures.holds == (1 if (first, second) == ("read", "read") else 2)
    assert figures.holds <= figures.reads + figures.writes


async def test_a_kernel_lock_that_nobody_uses_is_no_hold(region: Region, rival: Rival):
    """The task that asked is cancelled when its lock has come, and was not handed out yet."""
    scope = anyio.CancelScope()

    async def write() -> None:
        with scope:
            async with region.write_lock():
                raise AssertionError("it was cancelled")

    def granted() -> bool:
        if rival.do("try-shared") == "busy":
            return True
        rival.do("unlock")
        return False

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await until_blocked()
        rival.do("unlock")
        wait_until(granted)  # this event loop stands still meanwhile
        scope.cancel()
    await until(lambda: idle(region))
    assert region.statistics().holds == 0


async def test_a_hand_over_ends_one_hold_and_begins_another(region: Region):
    async def write() -> None:
        async with region.write_lock():
            await anyio.sleep(0.02)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(write)
    figures = region.statistics()
    assert figures.holds == 3
    assert 0.02 <= figures.longest_hold <= figures.held - 2 * 0.02


async def test_slow_holds_are_logged_with_the_line_that_ended_them(
    region: Region, caplog: pytest.LogCaptureFixture
):
    async with region.write_lock():
        await anyio.sleep(0.02)
    assert caplog.records == []  # off by default
    assert region.slow_hold is None
    region.slow_hold = 60
    async with region.write_lock():
        pass
    assert caplog.records == []
    region.slow_hold = 0.01
    async with region.write_lock():
        await anyio.sleep(0.02)
    async with region.read_lock():
        await anyio.sleep(0.02)
    with region.write_lock():
        time.sleep(0.02)
    hold = region.write_lock()
    await hold.acquire()
    await anyio.sleep(0.02)
    hold.downgrade()
    region.slow_hold = 60  # however late this machine is
    hold.release()
    kinds = [record.getMessage().split()[3] for record in caplog.records]
    assert kinds == ["write", "read", "write", "write"]
    for record in caplog.records:
        assert (record.name, record.levelno) == ("shm_async", logging.WARNING)
        assert record.filename == "test_statistics_of_holds.py"
        assert region.name in record.getMessage()
    region.slow_hold = None
    with region.write_lock():
        time.sleep(0.02)
    assert len(caplog.records) == 4


@pytest.mark.parametrize("follower", ["read", "write"])
@pytest.mark.parametrize("bound", [0.0, 3600.0], ids=["by the kernel", "within the loop"])
async def test_a_slow_hold_that_is_handed_on_is_logged(
    region: Region,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    bound: float,
    follower: str,
):
    for name in ("MAX_KEEP", "MAX_KEEP_ALONE"):
        monkeypatch.setattr(cohort, name, bound)
    region.slow_hold = 0.01

    async def follow() -> None:
        async with getattr(region, f"{follower}_lock")():
            region.slow_hold = 60  # the other hold is over and logged: not this one, however late

    async with anyio.create_task_group() as group:
        await group.start(hold_for, region, 0.02)
        group.start_soon(follow)
    assert len(caplog.records) == 1
    assert region.statistics().hand_overs == bool(bound)


async def hold_for(region: Region, seconds: float, *, task_status) -> None:
    async with region.write_lock():
        task_status.started()
        await anyio.sleep(seconds)


@pytest.mark.parametrize("nonsense", [-1, float("nan"), "1", True])
def test_slow_hold_is_a_number_of_seconds(region: Region, nonsense):
    with pytest.raises((TypeError, ValueError)):
        region.slow_hold = nonsense
    assert region.slow_hold is None
