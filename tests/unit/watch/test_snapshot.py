"""Snapshots: of one moment, without a lock where that is possible."""

import os
import threading
import time
from subprocess import PIPE, Popen
from sys import executable

import anyio
import pytest
from dying import writer_dies
from rivals import Rival

from shm_async import (
    LockTimeoutError,
    OwnerDiedError,
    Region,
    RegionClosedError,
    RegionSizeError,
    _native,
    _surface,
)
from shm_async._watch import snapshot


async def test_it_is_what_is_there(region: Region):
    region.buffer[0], region.buffer[7] = 1, 2**64 - 1
    expected = bytes(region.buffer)
    assert region.snapshot() == await region.snapshot_async() == expected
    for into in (bytearray(64), memoryview(bytearray(64)).cast("Q")):
        assert region.snapshot(into=into) is None
        assert bytes(into) == expected
        into[0] = 0
        assert await region.snapshot_async(into=into) is None
        assert bytes(into) == expected


def test_it_takes_no_lock_while_nobody_writes(region: Region, rival: Rival):
    rival.do("exclusive")  # who takes it marks nothing
    region.snapshot(timeout=0.01)
    region.snapshot(into=bytearray(64), timeout=0.01)
    assert region.statistics().reads == 0


@pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")  # on purpose
async def test_it_waits_for_a_writer_who_is_inside(region: Region):
    with Region.attach(region.name) as other:
        hold = other.write_lock()
        hold.acquire_blocking()[0] = 1
        with pytest.raises(LockTimeoutError):
            region.snapshot(timeout=0.01)
        with anyio.move_on_after(0.01) as scope:
            await region.snapshot_async()
        assert scope.cancelled_caught
        assert region.statistics().reads == 0
        seen = []

        async def look() -> None:
            seen.append(await region.snapshot_async())

        async with anyio.create_task_group() as group:
            group.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            hold.view[1] = 2
            hold.release()
        assert (seen[0][0], seen[0][8]) == (1, 2)


async def test_a_transaction_does_not_keep_it_waiting(region: Region):
    region.buffer[0] = 1
    with region.transaction() as view:
        view[0] = 2
        assert region.snapshot()[0] == (await region.snapshot_async())[0] == 1
    assert region.snapshot()[0] == 2
    assert region.statistics().reads == 0


async def test_whoever_writes_is_not_kept_waiting_for_himself(region: Region):
    with region.write_lock():
        with pytest.raises(RuntimeError, match="wait for it for ever"):
            region.snapshot()
    async with region.write_lock():
        with pytest.raises(RuntimeError, match="would wait for itself"):
            await region.snapshot_async()
    async with region.read_lock():
        region.snapshot()


async def test_it_is_told_of_a_dead_writer(region: Region):
    pid = writer_dies(region)
    with pytest.raises(OwnerDiedError, match=str(pid)):
        region.snapshot()
    with pytest.raises(OwnerDiedError, match=str(pid)):
        await region.snapshot_async(into=bytearray(64))
    with Region.attach(region.name, on_owner_death="ignore") as careless:
        assert careless.snapshot()[0] == 1

    def repair(hold) -> None:
        hold.view[0] = 7

    with Region.attach(region.name, on_owner_death=repair) as mended:
        assert (await mended.snapshot_async())[0] == 7
    assert region.snapshot()[0] == 7


@pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")  # on purpose
async def test_a_raw_region_is_copied_under_the_read_lock(name: str):
    with Region.create(name, 3, layout="raw") as region:
        region.buffer[0] = 1
        assert region.snapshot() == await region.snapshot_async() == b"\1\0\0"
        assert region.statistics().reads == 2
        rival = Rival(name)
        rival.do("exclusive")
        with pytest.raises(LockTimeoutError):
            region.snapshot(timeout=0.01)
        rival.close()


def test_a_readonly_attachment_has_it_too(region: Region):
    region.buffer[0] = 1
    with Region.attach(region.name, readonly=True) as reader:
        assert reader.snapshot()[0] == 1
        with region.write_lock():
            with pytest.raises(LockTimeoutError):
                reader.snapshot(timeout=0.01)
        assert reader.snapshot()[0] == 1


@pytest.mark.parametrize("size", [0, 4096, 8191])
async def test_a_truncated_region_is_told(region: Region, rival: Rival, size: int):
    rival.do(f"truncate {size}")
    with pytest.raises(RegionSizeError):
        region.snapshot()
    with pytest.raises(RegionSizeError):
        await region.snapshot_async()
    rival.do("truncate 8192")


async def test_a_closed_region_has_none(region: Region):
    region.close()
    for into in (None, bytearray(64)):
        with pytest.raises(RegionClosedError):
            region.snapshot(into=into)
        with pytest.raises(RegionClosedError):
            await region.snapshot_async(into=into)


@pytest.mark.parametrize(
    ("into", "error", "says"),
    [
        (bytearray(63), ValueError, "64 bytes, not 63"),
        (bytearray(65), ValueError, "64 bytes, not 65"),
        (bytes(64), TypeError, "writable"),
        (memoryview(bytearray(128))[::2], ValueError, "contiguous"),
        ("x" * 64, TypeError, "bytes-like"),
    ],
)
async def test_a_buffer_that_does_not_fit_is_refused(
    region: Region, into: object, error: type[Exception], says: str
):
    with pytest.raises(error, match=says):
        region.snapshot(into=into)
    with pytest.raises(error, match=says):
        await region.snapshot_async(into=into)


def test_a_forked_child_has_it(region: Region):
    with region.write_lock():
        pass
    if (child := os.fork()) == 0:
        os._exit(region.snapshot()[0] if region.snapshot() == bytes(64) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("disturbances", range(snapshot.TRIES + 3))
def test_a_copy_that_was_disturbed_is_thrown_away(
    region: Region, monkeypatch: pytest.MonkeyPatch, disturbances: int
):
    """Somebody writes between the copy and the second look at the generation."""
    left = [disturbances]

    def disturbed(glance: object) -> int:
        if left[0]:
            left[0] -= 1
            with region.write_lock() as view:
                view[0] += 1
        return _native.snapshot_after(glance)

    monkeypatch.setattr(snapshot, "snapshot_after", disturbed)
    monkeypatch.setattr(_surface, "snapshot_after", disturbed)
    assert region.snapshot() == bytes(region.buffer)
    assert left[0] == max(0, disturbances - snapshot.TRIES - 1)
    assert region.statistics().reads == (disturbances > snapshot.TRIES)


WRITER = """
import random, sys, time
from shm_async import Region
region = Region.attach(sys.argv[1])
dice = random.Random(sys.argv[2])
size = len(region)
print("ready", flush=True)
for turn in iter(int, 1):
    value = dice.randbytes(1)
    if dice.random() < 0.5:
        with region.write_lock() as view:
            view[: size // 2] = value * (size // 2)
            view[size // 2 :] = value * (size - size // 2)
    else:
        with region.transaction() as view:
            view[:] = value * size
    if dice.random() < 0.3:
        time.sleep(dice.random() * 0.0003)
"""


@pytest.mark.parametrize("size", [64, 100_000])
def test_it_never_tears_while_two_processes_write_flat_out(name: str, size: int):
    with Region.create(name, size) as region:
        writers = [
            Popen([executable, "-c", WRITER, name, str(seed)], stdout=PIPE) for seed in (1, 2)
        ]
        try:
            for writer in writers:
                assert writer.stdout.readline() == b"ready\n"
            into = bytearray(size)
            seen = set()
            looks = 0
            start = region.generation
            deadline = time.monotonic() + 30

            def enough() -> bool:
                """Whether both wrote in between, and some looks had to wait for the lock."""
                written = len(seen) > 20 and region.generation > start + 100
                return looks >= 4000 and written and region.statistics().reads > 0

            while not enough():
                assert time.monotonic() < deadline, "it never took the lock, or nobody wrote"
                looks += 1
                if looks % 2:
                    region.snapshot(into=into)
                    data = bytes(into)
                else:
                    data = region.snapshot()
                assert data.count(data[:1]) == size, "it is torn"
                seen.add(data[0])
            assert region.statistics().reads < looks, "it took the lock always"
        finally:
            for writer in writers:
                writer.kill()
                writer.stdout.close()
                writer.wait()


def test_threads_may_take_them_all_at_once(region: Region):
    failures = []

    def look() -> None:
        for _ in range(300):
            data = memoryview(region.snapshot()).cast("Q")
            if data[0] != data[7]:
                failures.append(list(data))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for value in range(300):
        with region.write_lock() as view:
            view[0] = view[7] = value
    for thread in threads:
        thread.join()
    assert failures == []
