"""Resizing: another object under the same name, and how all who are attached find out."""

import os
import signal
import stat
import threading
import time
from pathlib import Path

import anyio
import pytest
from conftest import Rival, blocked_in_flock, wait_until

from shm_async import (
    LockTimeoutError,
    OwnerDiedError,
    Region,
    RegionClosedError,
    RegionNotFoundError,
    RegionReplacedError,
    RegionSizeError,
    attachment,
    prune,
    segment,
)
from shm_async.asynclock import Cohort
from shm_async.synclock import Seat
from shm_async.transaction import LateHold


@pytest.fixture
def other(region: Region, name: str):
    """A second attachment of the same region, that follows."""
    with Region.attach(name, follow=True) as other:
        yield other


def temporary_objects() -> list[str]:
    return [entry for entry in os.listdir("/dev/shm") if entry.startswith(segment.SUCCESSOR)]


@pytest.fixture(autouse=True)
def no_temporary_object_is_left():
    before = temporary_objects()
    yield
    assert set(temporary_objects()) <= set(before)


# ---- what becomes of the region ---------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 8, 9, 600, 200_000])
def test_the_data_is_kept_and_new_elements_are_zero(region: Region, name: str, length: int):
    with region.write_lock() as view:
        view[:] = memoryview(b"".join(i.to_bytes(8, "little") for i in range(8))).cast("Q")
    region.resize(length)
    kept = min(length, 8)
    assert (len(region), region.nbytes, region.shape) == (length, 8 * length, (length,))
    with region.read_lock() as view:
        assert list(view[:kept]) == list(range(kept))
        assert not any(view[kept:])
    with Region.attach(name, length) as newcomer:
        assert newcomer.snapshot() == region.snapshot()
        assert newcomer.dtype == "uint64"
    assert region.linked


def test_the_same_size_changes_nothing(region: Region):
    identity = region._segment.identity
    region.resize(8)
    assert region._segment.identity == identity


def test_several_dimensions_keep_all_but_the_first(name: str):
    with Region.create(name, shape=(2, 3), dtype="uint8") as region:
        with region.write_lock() as view:
            view[1, 2] = 7
        region.resize(shape=(4, 3))
        assert region.shape == (4, 3)
        with region.read_lock() as view:
            assert view[1, 2] == 7
        region.resize(6)
        assert region.shape == (2, 3)
        for bad in ((2, 4), (1, 2, 3)):
            with pytest.raises(ValueError, match="only the first dimension"):
                region.resize(shape=bad)
        with pytest.raises(ValueError, match="only the first dimension"):
            region.resize(7)
        assert region.shape == (2, 3)


def test_mode_owner_and_sparseness_stay(name: str):
    with Region.create(name, 8, mode=0o640, reserve=False) as region:
        os.chown(f"/dev/shm/{name}", 65534, 65533)
        region.resize(10_000)
        found = os.stat(f"/dev/shm/{name}")
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert (found.st_uid, found.st_gid) == (65534, 65533)
        assert found.st_blocks * 512 < 10_000, "it was made sparse on purpose"


def test_holes_stay_holes(name: str):
    pages = 64
    with Region.create(name, pages * 4096, reserve=False, unlink="creator") as region:
        for page in (0, 7, 8, 63):
            region.buffer[page * 4096 + page] = page + 1
        region.resize(60 * 4096)
        region.resize(pages * 4096)
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 == 4 * 4096  # and the control page
        stored = {i: value for i, value in enumerate(region.buffer) if value}
        assert stored == {0: 1, 7 * 4096 + 7: 8, 8 * 4096 + 8: 9}


def test_memory_is_reserved(region: Region, name: str):
    region.resize(100_000)
    assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 800_000


def test_the_generation_goes_on(region: Region):
    before = region.generation
    region.resize(9)
    assert region.generation == before + 2
    with region.write_lock():
        pass
    assert region.generation == before + 4


def test_what_was_counted_is_kept(region: Region):
    with region.write_lock():
        pass
    region.resize(9)
    with region.write_lock():
        pass
    assert region.statistics().writes == 3


def test_the_old_object_goes_when_nobody_has_it_mapped(region: Region):
    old = region._segment.identity[1]

    def mapped() -> bool:
        maps = Path("/proc/self/maps").read_text().splitlines()
        return any(f" {old} " in row for row in maps)

    assert mapped()
    region.resize(10_000)
    assert not mapped()


def test_a_view_of_the_old_one_is_stale_but_no_crash(region: Region):
    view = region.buffer
    region.resize(1)
    view[7] = 5
    assert region.buffer[0] == 0


def test_two_can_resize_it_again_and_again(name: str, other: Region):
    with Region.attach(name, follow=True) as another:
        for length in range(1, 40):
            (another, other)[length % 2].resize(length)
        for each in (another, other):
            with each.write_lock() as view:
                assert len(view) == 39


# ---- how others find out ------------------------------------------------------------------


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
    return LateHold(region, None, True)


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
if (pid := os.fork()) == 0:
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
    prune("shm_async.resize.*", dry_run=False)  # it may have been at work
print("ok")
"""
    result = run_python(program)
    assert result.stdout == "ok\n", result.stderr


def test_attach_tries_again_when_the_name_changes_hands_under_it(
    region: Region, name: str, monkeypatch
):
    announce = segment.presence.announce

    def resize_first(fd: int, name: str) -> None:
        monkeypatch.undo()
        region.resize(16)
        announce(fd, name)

    monkeypatch.setattr(segment.presence, "announce", resize_first)
    with Region.attach(name) as newcomer, newcomer.read_lock() as view:
        assert len(view) == 16


# ---- deaths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["before the word", "before the name", "after the name"])
def test_who_is_killed_while_resizing_leaves_the_old_one_or_the_new_one(
    region: Region, other: Region, name: str, monkeypatch, step: str
):
    region.buffer[0] = 5

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        where, what = {
            "before the word": (segment, "leads_to"),
            "before the name": (segment.os, "rename"),
            "after the name": (Region, "_move_to"),
        }[step]
        monkeypatch.setattr(where, what, die)
        region.resize(16)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    length = 16 if step == "after the name" else 8
    with other.write_lock(timeout=1) as view:
        assert (len(view), view[0]) == (length, 5)
    assert not other._now().control().replaced
    left = temporary_objects()
    assert len(left) == (step != "after the name")
    assert prune(f"{segment.SUCCESSOR}*", dry_run=False) == left
    other.resize(17)  # and life goes on
    with Region.attach(name) as newcomer:
        assert len(newcomer) == 17


def test_a_word_that_nobody_made_true_is_cleared_by_who_finds_it(region: Region):
    control = region._now().control()
    control.replaced = 1
    with region.read_lock():
        assert control.replaced == 0


def test_a_reader_alone_cannot_clear_it_and_goes_on(region: Region, name: str):
    control = region._now().control()
    with Region.attach(name, readonly=True) as reader:
        control.replaced = 1
        with reader.read_lock():
            pass
        assert reader.snapshot() == bytes(64)


def test_a_dead_writer_is_told_of_before_resizing(region: Region):
    pid = os.fork()
    if pid == 0:
        with region.write_lock():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(OwnerDiedError):
        region.resize(16)
    assert len(region) == 8


# ---- what cannot be done ----------------------------------------------------------------------


def test_only_managed_regions_with_a_name_can_be_resized(name: str, sysv_key: int):
    for layout in ("raw", "sized"):
        with Region.create(name, 8, layout=layout) as region:
            with pytest.raises(ValueError, match=f"is {layout}"):
                region.resize(16)
            region.unlink()
    with Region.create(sysv_key, 8) as region:
        with pytest.raises(ValueError, match="System V"):
            region.resize(16)
        region.unlink()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((0,), ValueError),
        ((-1,), ValueError),
        ((1.5,), TypeError),
        (("9",), TypeError),
        ((2**60,), OSError),
    ],
)
def test_a_size_that_makes_no_sense_changes_nothing(region: Region, arguments, error):
    identity = region._segment.identity
    with pytest.raises(error):
        region.resize(*arguments)
    assert region._segment.identity == identity
    with region.write_lock(timeout=1):
        pass


def test_a_closed_region_is_not_resized(region: Region):
    region.close()
    with pytest.raises(RegionClosedError):
        region.resize(16)


def test_a_region_without_its_name_is_not_resized(region: Region, name: str):
    region.unlink()
    with pytest.raises(RegionNotFoundError):
        region.resize(16)
    with Region.create(name, 4), pytest.raises(RegionNotFoundError):
        region.resize(16)
    with region.write_lock() as view:  # and works on
        assert len(view) == 8


def test_who_holds_the_lock_itself_is_told(region: Region):
    with region.read_lock(), pytest.raises(RuntimeError, match="release it first"):
        region.resize(16)


def test_a_stranger_may_not_resize_and_everything_stays(region: Region, name: str):
    os.chmod(f"/dev/shm/{name}", 0o666)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with Region.attach(name, owner="any") as mine:
                with pytest.raises(PermissionError):
                    mine.resize(16)
                with mine.write_lock(timeout=1) as view:
                    view[0] = 9
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with region.read_lock() as view:
        assert (len(view), view[0]) == (8, 9)


def test_a_successor_that_was_unlinked_is_told(region: Region, other: Region, name: str):
    region.resize(16)
    region.unlink()
    with pytest.raises(RegionNotFoundError):
        other.read_lock().acquire_blocking()


def test_a_namesake_is_not_followed(region: Region, other: Region, name: str):
    region.resize(16)
    region.unlink()
    with Region.create(name, 32, dtype="uint64"):
        with pytest.raises(RegionReplacedError, match="created another one"):
            other.read_lock().acquire_blocking()
        assert len(other) == 8


def test_an_older_one_is_not_followed(region: Region, other: Region, name: str):
    """Somebody puts a copy of the old object back under the name: same lineage, same epoch."""
    content = Path(f"/dev/shm/{name}").read_bytes()
    region.resize(16)
    os.unlink(f"/dev/shm/{name}")
    Path(f"/dev/shm/{name}").write_bytes(content)
    with pytest.raises(RegionReplacedError, match="created another one"):
        other.read_lock().acquire_blocking()


def test_a_truncated_region_is_not_resized(region: Region, rival: Rival):
    assert rival.do("truncate 0") == "done"
    with pytest.raises(RegionSizeError):
        region.resize(16)


def test_a_full_memory_is_an_error_and_the_region_stays(region: Region, monkeypatch):
    monkeypatch.setattr(segment, "free_bytes", lambda: 4096)
    with pytest.raises(OSError, match="4096 bytes free"):
        region.resize(100_000)
    assert len(region) == 8
    with region.write_lock(timeout=1):
        pass


def test_the_old_kernels_way_works_too(region: Region, other: Region, monkeypatch):
    """Without O_TMPFILE the new object has a name of its own from the start."""
    monkeypatch.setattr(segment, "publish", segment._publish_by_name)
    region.resize(16)
    with other.read_lock() as view:
        assert len(view) == 16


def test_replaced_is_about_the_name_not_the_word(region: Region):
    region._now().control().replaced = 1
    assert not attachment.replaced(region._now())


def test_no_count_is_lost_while_loops_and_threads_of_one_region_go_over(region: Region, name: str):
    """One Region object, used by two event loops and two threads, is replaced all the time."""
    resizes, done, counts = 100, threading.Event(), []

    async def tasks(shared: Region) -> None:
        async def count() -> None:
            counted = 0
            while not done.is_set():
                async with shared.write_lock() as view:
                    view[0] += 1
                counted += 1
                await anyio.lowlevel.checkpoint()
            counts.append(counted)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(count)

    def thread(shared: Region) -> None:
        counted = 0
        while not done.is_set():
            with shared.write_lock() as view:
                view[0] += 1
            counted += 1
        counts.append(counted)

    with Region.attach(name, follow=True) as shared, Region.attach(name, follow=True) as other:
        users = [threading.Thread(target=thread, args=(shared,)) for _ in range(2)]
        users += [threading.Thread(target=anyio.run, args=(tasks, shared)) for _ in range(2)]
        for user in users:
            user.start()
        for turn in range(resizes):
            (other, shared)[turn % 2].resize(9 + turn)
            time.sleep(0.0005)  # without a pause it may keep the others out
        done.set()
        for user in users:
            user.join()
        assert len(counts) == 2 + 2 * 3, "one of them failed"
        with shared.read_lock() as view:
            assert view[0] == sum(counts) > resizes
        assert shared.generation == 2 * (sum(counts) + resizes)
