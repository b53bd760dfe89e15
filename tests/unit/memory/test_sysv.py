"""System V segments: their life, their companions, and what they are refused."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sysv_segments import companion, in_another_process, segments

from shm_async import (
    LockTimeoutError,
    OwnerDiedError,
    Region,
    RegionClosedError,
    RegionNotFoundError,
)

# ---- life --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["managed", "raw"])
def test_what_one_creates_another_attaches(key: int, layout):
    with Region.create(key, 4, dtype="uint64", layout=layout) as region:
        with region.write_lock() as view:
            view[3] = 7
        with Region.attach(key, dtype="uint64") as other:
            assert (other.layout, other.dtype, other.shape) == (layout, "uint64", (4,))
            assert (other.key, other.id, other.name) == (key, region.id, f"{key:#010x}")
            assert (region.created, other.created) == (True, False)
            assert region.attachments == other.attachments == 2
            with other.read_lock() as view:
                assert view.tolist() == [0, 0, 0, 7]
        assert region.attachments == 1
        region.unlink()


def test_none_makes_a_segment_with_a_fresh_key():
    with Region.create(None, 1) as one, Region.create(None, 1) as other:
        assert one.key != other.key
        for region in (one, other):
            assert region.key is not None
            assert 1 <= region.key <= 2**32 - 2
            assert {region.key} <= segments()
            region.unlink()
            assert not companion(region.key).exists()


def test_open_creates_it_once(key: int):
    with Region.open(key, 8) as first, Region.open(key, 8) as second:
        assert (first.created, second.created, first.id) == (True, False, second.id)
        first.unlink()


def test_a_removed_segment_lives_on_with_who_is_attached(key: int):
    with Region.create(key, 8) as region, Region.attach(key) as other:
        assert region.linked
        region.unlink()
        assert not region.linked
        assert not companion(key).exists()
        with region.write_lock() as view:
            view[0] = 1
            with pytest.raises(LockTimeoutError), other.write_lock(timeout=0.01):
                pass
        with other.read_lock() as view:
            assert view[0] == 1
        with pytest.raises(RegionNotFoundError):
            other.unlink()
        with pytest.raises(RegionNotFoundError):
            Region.attach(key)


def test_a_key_can_be_used_again_while_the_old_segment_lives_on(key: int):
    with Region.create(key, 8) as old:
        old.unlink()
        with Region.create(key, 8) as new:
            assert new.id != old.id
            with old.write_lock(), new.write_lock(timeout=5) as view:  # two regions, two locks
                view[0] = 1
            with pytest.raises(RegionNotFoundError):
                old.unlink()  # the key is the new one's
            assert new.linked
            old.close()
            assert companion(key).exists()
            new.unlink()


def test_views_outlive_the_region_and_the_segment(key: int):
    region = Region.create(key, 8)
    view = region.buffer
    region.unlink()
    region.close()
    view[0] = 3
    assert view[0] == 3
    assert region.attachments == 1  # the view's
    view.release()
    with pytest.raises(RegionNotFoundError):
        _ = region.attachments


def test_a_segment_is_detached_when_nothing_refers_to_it(key: int):
    with Region.create(key, 8) as region:
        other = Region.attach(key)
        assert region.attachments == 2
        other.close()
        assert region.attachments == 1
        region.unlink()


def test_close_is_final(key: int):
    region = Region.create(key, 8, layout="raw")
    region.close()
    region.close()
    with pytest.raises(RegionClosedError):
        region.write_lock()
    assert not companion(key).exists()
    region.unlink()


def test_memory_can_be_locked(key: int):
    with Region.create(key, 4096, lock_memory=True) as region:
        region.buffer[0] = 1
        locked = Path("/proc/self/smaps").read_text().split(f"SYSV{key:08x}")[1]
        assert (
            next(line for line in locked.splitlines() if line.startswith("Locked")).split()[1]
            != "0"
        )
        region.unlink()


def test_the_mode_is_the_one_asked_for_whatever_the_umask(key: int):
    before = os.umask(0o077)
    try:
        with Region.create(key, 8, mode=0o664) as region:
            row = next(
                row
                for row in Path("/proc/sysvipc/shm").read_text().splitlines()
                if row.split()[1] == str(region.id)
            )
            assert int(row.split()[2], 8) & 0o777 == 0o664
            assert stat.S_IMODE(companion(key).stat().st_mode) == 0o664
            region.unlink()
    finally:
        os.umask(before)


def test_readonly_is_attached_for_reading_only(key: int):
    with Region.create(key, 4) as region, Region.attach(key, readonly=True) as reader:
        assert reader.readonly
        assert reader.buffer.readonly
        with pytest.raises(PermissionError):
            reader.write_lock()
        with region.write_lock() as view:
            view[0] = 9
        with reader.read_lock() as view:
            assert view[0] == 9
            with pytest.raises(LockTimeoutError), region.write_lock(timeout=0.01):
                pass
        program = """
import ctypes, sys
from shm_async import Region, _native
region = Region.attach(int(sys.argv[1]), readonly=True)
ctypes.memset(int(_native.ffi.cast("intptr_t", region._table.opener.mapping.address)), 0, 1)
"""
        sanitizer = os.environ.get("ASAN_OPTIONS", "")  # would catch the signal and exit with 1
        done = subprocess.run(
            [sys.executable, "-c", program, str(key)],
            env={**os.environ, "ASAN_OPTIONS": f"{sanitizer}:handle_segv=0"},
            timeout=30,
            check=False,
        )
        assert done.returncode == -signal.SIGSEGV  # the kernel refuses the store
        assert region.buffer[0] == 9
        region.unlink()


# ---- locks -------------------------------------------------------------------------------------


async def test_coroutines_and_threads_and_processes_exclude_each_other(key: int, anyio_backend):
    import anyio

    program = """
import sys
from shm_async import Region
with Region.attach(int(sys.argv[1])) as region:
    for _ in range(300):
        with region.write_lock() as view:
            view[0] += 1
"""
    with Region.create(key, 1, dtype="uint64") as region:

        async def count() -> None:
            for _ in range(300):
                async with region.write_lock() as view:
                    before = view[0]
                    await anyio.lowlevel.checkpoint()
                    view[0] = before + 1

        def count_in_thread() -> None:
            for _ in range(300):
                with region.write_lock() as view:
                    view[0] += 1

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            group.start_soon(count)
            group.start_soon(anyio.to_thread.run_sync, count_in_thread)
            group.start_soon(anyio.to_thread.run_sync, in_another_process, program, key)
        assert region.buffer[0] == 1200
        assert region.generation == 2400
        region.unlink()


def test_flock_on_the_companion_is_the_lock(key: int):
    with Region.create(key, 1) as region:
        taken = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        in_another_process(taken, companion(key))
        with region.read_lock(), pytest.raises(AssertionError, match="BlockingIOError"):
            in_another_process(taken, companion(key))
        region.unlink()


def test_a_dead_writer_is_told_of(key: int):
    program = """
import os, signal, sys
from shm_async import Region
region = Region.attach(int(sys.argv[1]))
hold = region.write_lock()
hold.acquire_blocking()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with Region.create(key, 1) as region:
        writer = subprocess.run(
            [sys.executable, "-c", program, str(key)], capture_output=True, timeout=30, check=False
        )
        assert writer.returncode == -signal.SIGKILL
        with pytest.raises(OwnerDiedError) as caught, region.read_lock():
            pass
        assert caught.value.pid == int(writer.stdout)
        with region.write_lock(recover=True) as view:
            view[0] = 1
        assert region.snapshot() == b"\1"
        region.unlink()


def test_a_forked_child_shares_the_memory_and_holds_nothing(key: int):
    with Region.create(key, 1) as region:
        with region.write_lock() as view:
            pid = os.fork()
            if pid == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    try:
                        with region.write_lock(timeout=0.05):
                            code = 2
                    except LockTimeoutError:
                        code = 0
                os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            view[0] = 1
        region.unlink()
