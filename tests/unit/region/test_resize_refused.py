"""Resizing: what cannot be done, and what stays then."""

import os
import threading
import time
from pathlib import Path

import anyio
import pytest
from privileges import needs
from rivals import Rival

from shm_async import (
    Region,
    RegionClosedError,
    RegionNotFoundError,
    RegionReplacedError,
    RegionSizeError,
)
from shm_async._memory import attachment, publish, replacing, room


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
    identity = region._attachment.segment.identity
    with pytest.raises(error):
        region.resize(*arguments)
    assert region._attachment.segment.identity == identity
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


@needs("another user")
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
    monkeypatch.setattr(room.Host, "free_bytes", lambda _: 4096)
    with pytest.raises(OSError, match="4096 bytes free"):
        region.resize(100_000)
    assert len(region) == 8
    with region.write_lock(timeout=1):
        pass


def test_the_old_kernels_way_works_too(region: Region, other: Region, monkeypatch):
    """Without O_TMPFILE the new object has a name of its own from the start."""
    monkeypatch.setattr(replacing, "publish", publish.publish_by_name)
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
