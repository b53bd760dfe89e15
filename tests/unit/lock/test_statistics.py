"""What a region counts, and what it logs."""

import dataclasses
import gc
import os
import threading
import time

import anyio
import anyio.lowlevel
import pytest
from rivals import Rival
from waits import until, wait_until

from shm_async import LockTimeoutError, OwnerDiedError, Region, Statistics
from shm_async._lock import cohort


async def test_free_locks_are_counted_by_kind(region: Region):
    assert region.statistics() == Statistics()
    for _ in range(3):
        async with region.write_lock():
            pass
    for _ in range(2):
        async with region.read_lock(), region.read_lock():
            pass
    with region.write_lock():
        pass
    with region.read_lock():
        pass
    figures = region.statistics()
    assert (figures.writes, figures.reads) == (4, 5)
    assert (figures.contended, figures.waited, figures.kernel_requests) == (0, 0, 0)


async def test_conversions_are_counted(region: Region):
    hold = region.read_lock()
    async with hold:
        await hold.upgrade()
        hold.downgrade()
    with hold:
        hold.upgrade_blocking()
        hold.downgrade()
    figures = region.statistics()
    assert (figures.writes, figures.reads) == (2, 4)


async def test_tasks_that_wait_are_counted(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cohort, "MAX_KEEP_ALONE", 3600)  # a slow machine hands over, too
    assert rival.do("exclusive") == "done"

    async def write() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(write)
        await until(lambda: region.statistics().waiting == 4)
        await anyio.sleep(0.02)
        rival.do("unlock")
    figures = region.statistics()
    assert (figures.writes, figures.contended, figures.waiting) == (4, 4, 0)
    assert (figures.kernel_requests, figures.hand_overs, figures.cancelled) == (1, 3, 0)
    assert 0.02 <= figures.longest_wait <= figures.waited <= 4 * figures.longest_wait


async def test_readers_that_come_in_together_are_counted(region: Region, rival: Rival):
    assert rival.do("exclusive") == "done"

    async def read() -> None:
        async with region.read_lock():
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(read)
        await until(lambda: region.statistics().waiting == 4)
        rival.do("unlock")
    figures = region.statistics()
    assert (figures.reads, figures.contended, figures.kernel_requests) == (4, 4, 1)


async def test_a_cancelled_wait_is_counted(region: Region, rival: Rival):
    assert rival.do("exclusive") == "done"
    with anyio.move_on_after(0.01):
        async with region.write_lock():
            pass
    figures = region.statistics()
    assert (figures.cancelled, figures.contended, figures.waiting, figures.writes) == (1, 1, 0, 0)
    assert figures.waited >= 0.008  # uvloop counts whole milliseconds


def test_threads_that_wait_are_counted(region: Region, rival: Rival):
    assert rival.do("exclusive") == "done"
    with pytest.raises(LockTimeoutError), region.write_lock(timeout=0.01):
        pass

    def read() -> None:
        with region.read_lock():
            pass

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: region.statistics().waiting == 1)
    rival.do("unlock")
    thread.join()
    figures = region.statistics()
    assert (figures.cancelled, figures.contended, figures.waiting) == (1, 2, 0)
    assert (figures.reads, figures.writes) == (1, 0)


def test_threads_that_come_and_go_lose_no_counts(region: Region):
    barrier = threading.Barrier(20)

    def read() -> None:
        with region.read_lock():
            barrier.wait()

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(3):  # more seats than are kept have come and gone
        with region.read_lock():
            pass
    assert region.statistics().reads == 23


def test_loops_that_come_and_go_lose_no_counts(region: Region):
    async def write() -> None:
        async with region.write_lock():
            pass

    for _ in range(3):
        anyio.run(write)
    gc.collect()
    assert region.statistics().writes == 3
    region.close()
    assert region.statistics().writes == 3


def test_a_forked_child_counts_its_own(region: Region):
    with region.write_lock():
        pass
    if (child := os.fork()) == 0:
        with region.read_lock():
            pass
        figures = region.statistics()
        os._exit(0 if (figures.reads, figures.writes) == (1, 0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert region.statistics().writes == 1


def test_statistics_cannot_be_changed(region: Region):
    with pytest.raises(dataclasses.FrozenInstanceError):
        region.statistics().reads = 1


# ---- slow holds --------------------------------------------------------------------------------


async def test_waits_are_counted_by_their_length(region: Region, rival: Rival):
    assert sum(region.statistics().waits) == 0
    assert rival.do("exclusive") == "done"
    for _ in range(2):
        with anyio.move_on_after(0.03):
            async with region.write_lock():
                raise AssertionError
    with anyio.move_on_after(0.03):
        async with region.read_lock():
            raise AssertionError
    assert rival.do("unlock") == "done"
    figures = region.statistics()
    assert len(figures.waits) == len(Statistics.wait_bounds) + 1
    assert sum(figures.waits) == figures.contended == figures.cancelled == 3
    shorter = figures.waits[: Statistics.wait_bounds.index(0.025) + 1]
    assert sum(shorter) == 0
    region.close()
    assert sum(region.statistics().waits) == 3


async def test_each_label_has_its_figures(region: Region):
    async def write() -> None:
        async with region.write_lock(label="refund"):
            pass

    async with anyio.create_task_group() as group:
        async with region.write_lock(label="checkout"):
            group.start_soon(write)
            await until(lambda: region.statistics().waiting == 1)
    for _ in range(2):
        with region.read_lock(label="checkout"):
            time.sleep(0.001)
    labels = region.statistics().labels
    assert set(labels) == {"checkout", "refund"}
    checkout, refund = labels["checkout"], labels["refund"]
    assert (checkout.reads, checkout.writes, checkout.contended) == (2, 1, 0)
    assert (refund.reads, refund.writes, refund.contended) == (0, 1, 1)
    assert refund.waited == refund.longest_wait > 0
    assert (checkout.holds, refund.holds) == (3, 1)
    assert checkout.held >= checkout.longest_hold + 0.001
    assert sum(refund.waits) == 1
    assert checkout.longest_hold >= 0.001


async def test_an_upgrade_counts_as_a_write_of_its_label(region: Region):
    hold = region.read_lock(label="checkout")
    hold.acquire_blocking()
    hold.upgrade_blocking()
    hold.downgrade()
    hold.upgrade_nowait()
    hold.release()
    async with hold:
        assert await hold.upgrade()
    figures = region.statistics()
    assert (figures.reads, figures.writes) == (3, 3)
    assert figures.labels["checkout"].writes == figures.writes


def test_labels_beyond_the_hundredth_count_together(region: Region):
    for number in range(105):
        with region.write_lock(label=f"label {number}"):
            pass
    labels = region.statistics().labels
    assert len(labels) == 101
    assert labels["(other)"].writes == 5


def die(region: Region) -> None:
    """Die while holding the lock for writing, in a child."""
    pid = os.fork()
    if not pid:
        hold = region.write_lock()
        hold.acquire_blocking()
        os._exit(0)
    os.waitpid(pid, 0)


def test_a_death_is_counted_once_however_often_it_is_found(region: Region):
    die(region)
    for _ in range(3):
        with pytest.raises(OwnerDiedError), region.read_lock():
            pass
    assert region.statistics().owner_deaths == 1
    with region.write_lock(recover=True):
        assert region.statistics().owner_deaths == 1
    die(region)
    with region.write_lock(recover=True):
        pass
    with region.write_lock():
        pass
    assert region.statistics().owner_deaths == 2


def test_an_ignored_death_is_counted_by_the_next_writer(region: Region):
    with Region.attach(region.name, on_owner_death="ignore") as ignoring:
        for deaths in (1, 2):
            die(region)
            for _ in range(3):
                with ignoring.read_lock():
                    assert ignoring.statistics().owner_deaths == deaths - 1
            with ignoring.transaction() as view:
                view[0] = deaths
            assert ignoring.statistics().owner_deaths == deaths
        with ignoring.write_lock():
            pass
        die(region)
        with ignoring.write_lock(recover=True):
            pass
        assert ignoring.statistics().owner_deaths == 3
    with region.read_lock():
        assert region.statistics().owner_deaths == 0
