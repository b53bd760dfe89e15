"""Resizing: how all who are attached find out, and go over to the new object."""

import os
import threading

import anyio
import pytest
from rivals import Rival, blocked_in_flock
from waits import wait_until

from shm_async import LockTimeoutError, Region, RegionReplacedError
from shm_async._lock.cohort import Cohort
from shm_async._lock.seat import Seat
from shm_async._lock.transaction import LateHold
from shm_async._memory import posix


@pytest.mark.parametrize("lock", ["read_lock", "write_lock", "transaction"])
def test_others_are_told_at_their_next_lock(region: Region, name: str, lock: str):
    with Region.attach(name) as other:
        region.resize(16)
        for _ in range(2):
            with pytest.raises(RegionReplacedError, match="resized") as caught:
                getattr(other, lock)().__enter__()
            assert caught.value.filename == name
        with pytest.raises(RegionReplacedError):
            other.snapshot()
        with pytest.raises(RegionReplacedError):
            other.read_lock().acquire_nowait()
        assert not other.linked
        assert len(other) == 8
        with region.write_lock(timeout=1):
            pass  # and nothing is held


@pytest.mark.parametrize("lock", ["read_lock", "write_lock", "transaction"])
def test_who_follows_goes_over(region: Region, other: Region, lock: str):
    before = other.read_lock()
    region.resize(16)
    with region.write_lock() as view:
        view[15] = 42
    with getattr(other, lock)() as view:
        assert view[15] == 42
    with before as view:  # a hold that was made for the old one
        assert view[15] == 42
    assert (len(other), other.linked) == (16, True)


def test_a_snapshot_follows_too(region: Region, other: Region):
    region.resize(16)
    with region.write_lock() as view:
        view[15] = 42
    assert len(other.snapshot()) == 128
    into = bytearray(128)
    region.resize(32)
    with pytest.raises(ValueError, match="256 bytes"):
        other.snapshot(into=into)


def test_who_reads_only_follows_too(region: Region, name: str):
    with Region.attach(name, readonly=True, follow=True) as reader:
        region.resize(16)
        with reader.read_lock() as view:
            assert len(view) == 16
            assert view.readonly
        with pytest.raises(PermissionError):
            reader.resize(17)


def test_who_is_writing_is_waited_for(region: Region, other: Region):
    with other.write_lock() as view:
        with pytest.raises(LockTimeoutError):
            region.resize(16, timeout=0.05)
        view[0] = 1
    region.resize(16)
    assert region.buffer[0] == 1


def test_who_waits_in_a_thread_is_told(region: Region, name: str):
    """Threads that were blocked on the old object's lock when it was replaced."""
    found = {}
    following = Region.attach(name, follow=True)
    stubborn = Region.attach(name)

    def wait(region: Region) -> None:
        try:
            with region.write_lock() as view:
                found[region] = len(view)
        except RegionReplacedError:
            found[region] = "told"

    threads = [threading.Thread(target=wait, args=(each,)) for each in (following, stubborn)]
    hold = the_lock_to_resize(region)
    with hold:
        for thread in threads:
            thread.start()
        wait_until(lambda: blocked_in_flock(os.getpid()))
        region._replace((16,))
    for thread in threads:
        thread.join(10)
    assert found == {following: 16, stubborn: "told"}
    following.close()
    stubborn.close()


def the_lock_to_resize(region: Region) -> LateHold:
    return region._table.late_hold(None, region)


def test_who_is_about_to_wait_goes_over_when_its_own_region_is_resized(
    region: Region, rival: Rival, monkeypatch
):
    """By another thread, that is: the seat to wait on has just been closed."""
    assert rival.do("exclusive") == "done"
    wait = Seat.wait

    def resize_first(*arguments: object) -> None:
        monkeypatch.undo()
        assert rival.do("unlock") == "done"
        region.resize(16)
        wait(*arguments)

    monkeypatch.setattr(Seat, "wait", resize_first)
    with region.write_lock() as view:
        assert len(view) == 16


async def test_tasks_of_the_resizers_own_region_go_over(region: Region, anyio_backend):
    """They queued behind it in the same cohort, and get the new memory."""
    lengths = []

    async def use() -> None:
        async with region.write_lock() as view:
            lengths.append(len(view))

    async with anyio.create_task_group() as group:
        async with region.read_lock():
            group.start_soon(region.resize_async, 16)
            await anyio.wait_all_tasks_blocked()
            for _ in range(5):
                group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
    assert lengths == [16] * 5
    assert region.statistics().waiting == 0


async def test_tasks_that_wait_elsewhere_go_over_or_are_told(
    region: Region, name: str, anyio_backend
):
    found = []

    async def use(region: Region) -> None:
        try:
            async with region.write_lock() as view:
                found.append(len(view))
        except RegionReplacedError:
            found.append("told")

    with Region.attach(name, follow=True) as following, Region.attach(name) as stubborn:
        async with anyio.create_task_group() as group:
            async with the_lock_to_resize(region):
                for each in (following, stubborn) * 3:
                    group.start_soon(use, each)
                await anyio.wait_all_tasks_blocked()
                region._replace((16,))
        assert sorted(found, key=str) == [16] * 3 + ["told"] * 3


async def test_a_cancelled_resize_changes_nothing(region: Region, rival: Rival, anyio_backend):
    assert rival.do("shared") == "done"
    with anyio.move_on_after(0.05) as scope:
        await region.resize_async(16)
    assert scope.cancelled_caught
    assert len(region) == 8
    assert rival.do("unlock") == "done"
    await region.resize_async(16)
    assert len(region) == 16


def test_a_reader_that_upgrades_is_told(region: Region, other: Region, monkeypatch):
    """Its read lock was let go on the way, and somebody resized the region meanwhile."""
    hold, another = other.read_lock(), region.read_lock()
    hold.acquire_blocking()
    another.acquire_blocking()
    wait = Seat.wait

    def resize_first(*arguments: object) -> None:
        monkeypatch.undo()
        another.release()
        region.resize(16)
        wait(*arguments)

    monkeypatch.setattr(Seat, "wait", resize_first)
    with pytest.raises(RegionReplacedError):
        hold.upgrade_blocking()
    with pytest.raises(RuntimeError, match="not held"):
        hold.release()
    with hold as view:
        assert len(view) == 16


async def test_a_task_that_upgrades_is_told(
    region: Region, other: Region, monkeypatch, anyio_backend
):
    hold, another = other.read_lock(), region.read_lock()
    await hold.acquire()
    await another.acquire()
    enter = Cohort.enter

    async def resize_first(*arguments: object) -> None:
        monkeypatch.undo()
        another.release()
        await region.resize_async(16)
        await enter(*arguments)

    monkeypatch.setattr(Cohort, "enter", resize_first)
    with pytest.raises(RegionReplacedError):
        await hold.upgrade()
    async with hold as view:
        assert len(view) == 16


def test_another_process_goes_over(region: Region, name: str, run_python):
    program = """
import sys
from shm_async import Region
with Region.attach(sys.argv[1], follow=True) as region:
    region.resize(16)
    with region.write_lock() as view: view[15] = 42
"""
    with Region.attach(name, follow=True) as other:
        assert run_python(program).returncode == 0
        with other.read_lock() as view:
            assert view[15] == 42
        other.resize(17)
    with pytest.raises(RegionReplacedError):
        region.read_lock().acquire_blocking()


def test_a_forked_child_goes_over_by_itself(region: Region, other: Region):
    if (pid := os.fork()) == 0:
        try:
            region.resize(16)
            with other.write_lock() as view:
                view[15] = 42
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with other.read_lock() as view:
        assert view[15] == 42


def test_a_newcomer_meets_the_old_one_or_the_new_one_and_nothing_else(name: str, run_python):
    program = """
import os, sys, time
from shm_async import Region, prune
name = sys.argv[1]
region = Region.create(name, 4, follow=True)
mine = os.getpid()
if (pid := os.fork()) == 0:
    os.urandom = lambda size: mine.to_bytes(size, "big")  # names what it may leave
    while True:
        for length in (5000, 4):
            region.resize(length)
            time.sleep(0.001)  # without a pause it may keep the others out
lengths = []
try:
    while set(lengths) != {4, 5000} or len(lengths) < 300:
        with Region.open(name, 4, follow=True) as newcomer:
            assert not newcomer.created
            with newcomer.read_lock() as view: lengths.append(len(view))
finally:
    os.kill(pid, 9); os.waitpid(pid, 0)
    prune(f"shm_async.resize.{mine:016x}", dry_run=False)  # it may have been at work
print("ok")
"""
    result = run_python(program)
    assert result.stdout == "ok\n", result.stderr


def test_attach_tries_again_when_the_name_changes_hands_under_it(
    region: Region, name: str, monkeypatch
):
    announce = posix.presence.announce

    def resize_first(fd: int, name: str) -> None:
        monkeypatch.undo()
        region.resize(16)
        announce(fd, name)

    monkeypatch.setattr(posix.presence, "announce", resize_first)
    with Region.attach(name) as newcomer, newcomer.read_lock() as view:
        assert len(view) == 16
