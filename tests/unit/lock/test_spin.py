"""Spinning: a busy lock is tried again for some microseconds, where that is likely to help."""

import threading
import time
from collections.abc import Iterator

import anyio
import pytest
from cohorts import queued
from waits import until, wait_until

from shm_async import LockTimeoutError, Region, WouldBlockError
from shm_async._native import BUSY, MARK, LockHandle, lock_spin_manner, lock_spin_shared

MOST_SKIPPED = 7


@pytest.fixture
def handle(region: Region) -> LockHandle:
    """The lock of a seat that holds nothing, as if all holds had been short."""
    with region.write_lock():
        pass
    handle = region._table.pool.free[-1].handle
    handle.recent = handle.control.recent = 0
    return handle


@pytest.fixture
def held(region: Region, name: str) -> Iterator[Region]:
    """The same region through another attachment, which has its write lock."""
    with Region.attach(name) as other, other.write_lock():
        yield other


def spin_exclusive(handle: LockHandle) -> int:
    return lock_spin_manner(handle, MARK)


def spins(handle: LockHandle, spin=spin_exclusive) -> bool:
    """Whether a try of the busy lock spins: it fails then, and makes the next one go without."""
    handle.skipped = handle.to_skip = 0
    assert spin(handle) == BUSY
    return handle.to_skip == 1


# ---- when ------------------------------------------------------------------------------


@pytest.mark.parametrize("spin", [spin_exclusive, lock_spin_shared])
def test_readers_and_writers_spin(handle: LockHandle, held: Region, spin):
    assert spins(handle, spin)


def test_each_failure_makes_more_tries_go_without(handle: LockHandle, held: Region):
    outcomes = []
    for _ in range(30):
        assert spin_exclusive(handle) == BUSY
        outcomes.append((handle.to_skip, handle.skipped))
    # a spin, 1 without, a spin, 3 without, and so on, up to 7
    assert outcomes[:6] == [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (3, 3)]
    assert max(outcomes) == (MOST_SKIPPED, MOST_SKIPPED)


@pytest.mark.parametrize("whose", ["ours", "all writers'"])
def test_nobody_spins_where_holds_are_long(handle: LockHandle, held: Region, whose: str):
    assert spins(handle)
    if whose == "ours":
        handle.recent = 1_000_000
    else:
        handle.control.recent = 1_000_000
    assert not spins(handle)


def test_a_hint_that_is_nonsense_does_no_harm(region: Region, name: str, handle: LockHandle):
    handle.control.recent = 2**32 - 1
    with Region.attach(name) as other, other.write_lock():
        assert not spins(handle)
    with region.write_lock():
        pass
    assert handle.control.recent < 2**32 - 1


def test_nobody_spins_past_a_waiter_at_the_gate(region: Region, name: str, handle: LockHandle):
    with Region.attach(name) as other:
        waiter = threading.Thread(target=write, args=(other,))
        with other.write_lock():
            waiter.start()
            wait_until(lambda: handle.control.gate)
            assert not spins(handle)
        waiter.join()


def write(region: Region) -> None:
    with region.write_lock():
        pass


def test_a_process_with_one_processor_spins_as_the_holder_may_run_elsewhere(
    name: str, region: Region, run_python
):
    done = run_python("""
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from shm_async import Region
from shm_async._native import MARK, lock_spin_manner
with Region.attach(sys.argv[1]) as region, Region.attach(sys.argv[1]) as other:
    with region.write_lock():
        pass
    handle = region._table.pool.free[-1].handle
    with other.write_lock():
        handle.recent = handle.control.recent = 0
        lock_spin_manner(handle, MARK)
        print(handle.to_skip)
""")
    assert (done.stdout, done.stderr) == ("1\n", "")


# ---- whose calls -------------------------------------------------------------------------


def test_calls_that_wait_spin_before_and_those_that_do_not_do_not(
    region: Region, handle: LockHandle, held: Region
):
    with pytest.raises(WouldBlockError):
        region.write_lock().acquire_nowait()
    with pytest.raises(WouldBlockError):
        region.read_lock().acquire_nowait()
    assert handle.to_skip == 0
    with pytest.raises(LockTimeoutError), region.write_lock(timeout=0.01):
        pass
    assert handle.to_skip == 1
    handle.to_skip = 0
    with pytest.raises(LockTimeoutError):
        region.read_lock().acquire_blocking(timeout=0.01)
    assert handle.to_skip == 1


async def test_tasks_spin_once_before_they_queue(region: Region, name: str):
    async with region.write_lock():
        handle = region._table.cohort.handle
    with Region.attach(name) as other:
        hold = other.write_lock()
        hold.acquire_blocking()
        handle.recent = handle.control.recent = handle.to_skip = 0

        async def release() -> None:
            await until(lambda: queued(region))
            hold.release()

        async with anyio.create_task_group() as group:
            group.start_soon(release)
            async with region.write_lock():
                assert handle.to_skip == 1


# ---- what it learns --------------------------------------------------------------------------


def last_for(handle: LockHandle, nanoseconds: int) -> None:
    """Make the hold that is inside look as if it had begun so long ago."""
    handle.granted = time.monotonic_ns() - nanoseconds


def test_a_quarter_of_each_write_hold_is_learned(region: Region, handle: LockHandle):
    with region.write_lock():
        last_for(handle, 400_000)
    assert 100_000 <= handle.recent <= 250_000  # more than 100_000 on a machine that is late
    assert handle.control.recent == handle.recent
    with region.write_lock():
        last_for(handle, 3600_000_000_000)  # counts as a millisecond
    assert 300_000 < handle.recent < 500_000


def test_readers_learn_for_themselves_alone(region: Region, handle: LockHandle):
    """They may have no right to write to the control page, and are not the only ones inside."""
    with region.read_lock():
        last_for(handle, 400_000)
    assert handle.recent >= 100_000
    assert handle.control.recent == 0
