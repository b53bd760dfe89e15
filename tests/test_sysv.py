"""System V segments: their life, their companions, and what they are refused."""

import contextlib
import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sysv_ipc
from conftest import our_descriptors

from shm_async import (
    LockTimeoutError,
    OwnerDiedError,
    Region,
    RegionClosedError,
    RegionExistsError,
    RegionFormatError,
    RegionNotFoundError,
    RegionSizeError,
    _native,
    sysv,
)

IPC = ctypes.CDLL(None, use_errno=True)


def companion(key: int) -> Path:
    return Path(f"/dev/shm/shm_async.sysv.{key:08x}")


def segments() -> set[int]:
    rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(row.split()[0]) & 0xFFFFFFFF for row in rows}


def remove(key: int) -> None:
    if (number := _native.sysv_find(key)) >= 0:
        _native.sysv_remove(number)
    companion(key).unlink(missing_ok=True)


@pytest.fixture
def key() -> Iterator[int]:
    """A key that nobody uses; whatever it leads to at the end is removed."""
    unused = next(key for key in range(0x51AB0000 + os.getpid(), 2**32) if key not in segments())
    yield unused
    assert not companion(unused).exists() or unused in segments(), "a dead companion was left"
    remove(unused)


def foreign(key: int, size: int, mode: int = 0o600) -> int:
    """A segment made by a program that knows nothing of us."""
    number = IPC.shmget(ctypes.c_int(key), ctypes.c_size_t(size), 0o3000 | mode)
    assert number >= 0, os.strerror(ctypes.get_errno())
    return int(number)


def in_another_process(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- life ------------------------------------------------------------------------


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
ctypes.memset(int(_native.ffi.cast("intptr_t", region._opener.mapping.address)), 0, 1)
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


# ---- locks -----------------------------------------------------------------------


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


# ---- segments of others ------------------------------------------------------------


def test_a_foreign_segment_gets_its_companion_from_the_first_who_locks_it(key: int):
    number = foreign(key, 24, 0o640)
    with Region.attach(key, dtype="uint64") as region, Region.attach(key) as other:
        assert (region.layout, region.shape, region.id) == ("raw", (3,), number)
        assert not companion(key).exists()
        with region.write_lock():
            assert stat.S_IMODE(companion(key).stat().st_mode) == 0o640
            with pytest.raises(LockTimeoutError), other.write_lock(timeout=0.01):
                pass
        region.unlink()


def test_a_companion_goes_with_a_segment_that_others_removed(key: int):
    foreign(key, 8)
    with Region.attach(key) as region, Region.attach(key) as other:
        with region.write_lock():
            pass
        with other.write_lock():
            pass
        _native.sysv_remove(region.id)
        assert companion(key).exists()
    assert not companion(key).exists()


def test_a_companion_that_a_crash_left_is_taken_over(key: int):
    companion(key).touch(0o644)
    with Region.create(key, 8, mode=0o600) as region:
        assert stat.S_IMODE(companion(key).stat().st_mode) == 0o600
        with region.write_lock():
            pass
        region.unlink()
    assert not companion(key).exists()


def test_a_part_of_a_foreign_segment_can_be_used(key: int):
    foreign(key, 10000)
    with Region.attach(key, 2, dtype="uint32") as region:
        assert region.nbytes == 8
        with pytest.raises(RegionSizeError, match="less than 3000"):
            Region.attach(key, 3000, dtype="uint32")
        with pytest.raises(RegionSizeError, match="no whole number of float64"):
            foreign(key ^ 1, 9)
            try:
                Region.attach(key ^ 1, dtype="float64")
            finally:
                remove(key ^ 1)
        region.unlink()


@pytest.mark.parametrize("layout", ["managed", "raw"])
def test_sysv_ipc_reads_what_we_write_and_we_what_it_writes(key: int, layout):
    with Region.create(key, 8, layout=layout) as region:
        theirs = sysv_ipc.SharedMemory(key)
        assert (theirs.id, theirs.number_attached, region.attachments) == (region.id, 2, 2)
        with region.write_lock() as view:
            view[:3] = b"abc"
        assert theirs.read(3) == b"abc"
        theirs.write(b"xyz", offset=5)
        with region.read_lock() as view:
            assert view[5:].tobytes() == b"xyz"
        theirs.detach()
        assert region.attachments == 1
        region.unlink()


def test_we_attach_to_what_sysv_ipc_made(key: int):
    theirs = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, size=24, mode=0o600)
    with Region.attach(key, dtype="float64") as region:
        assert (region.shape, region.id) == ((3,), theirs.id)
        with region.write_lock() as view:
            view[2] = 2.5
        assert struct.unpack_from("d", theirs.read(24), 16) == (2.5,)
        theirs.remove()
        assert not region.linked
    theirs.detach()


# ---- creation in steps ---------------------------------------------------------------


def test_who_attaches_waits_until_the_control_page_is_written(key: int, monkeypatch):
    seen = []
    original = sysv._make

    def slow(*arguments):
        made = original(*arguments)  # the page is there; before the claim is let go:
        seen.append(attacher.poll())
        return made

    program = f"""
import sys
from shm_async import Region, sysv, _native
claim = sysv._claim
def tell(*arguments):
    print("claiming", flush=True)
    claim(*arguments)
sysv._claim = tell
sys.stdin.readline()
with Region.attach({key}) as region:
    print(region.layout, region.dtype, flush=True)
"""
    attacher = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert attacher.stdin is not None
    assert attacher.stdout is not None

    def before_anybody_sees_it(key, size, mode, reserve, tail, fd, prepare):
        def prepare_slowly(made):
            mapping = prepare(made)
            attacher.stdin.write("\n")  # the segment exists, its page does not
            attacher.stdin.flush()
            assert attacher.stdout.readline() == "claiming\n"
            return mapping

        return slow(key, size, mode, reserve, tail, fd, prepare_slowly)

    monkeypatch.setattr(sysv, "_make", before_anybody_sees_it)
    with Region.create(key, 4, dtype="float64") as region:
        assert attacher.communicate(timeout=20)[0] == "managed float64\n"
        assert seen == [None]
        region.unlink()


def test_a_creator_that_died_half_way_is_told_of(key: int):
    program = f"""
import os
from shm_async import Region, sysv, _native
def die(*arguments, **keywords):
    os._exit(7)
original = sysv.SysvSegment.map
sysv.SysvSegment.map = die
Region.create({key}, 4)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == 7
    with pytest.raises(RegionFormatError, match="creator died.*prune"):
        Region.attach(key)
    with pytest.raises(RegionExistsError):
        Region.create(key, 4)
    remove(key)
    with Region.create(key, 4) as region:
        region.unlink()


def test_a_creation_that_fails_leaves_nothing(key: int):
    before = our_descriptors()
    with pytest.raises(OSError, match="RLIMIT_MEMLOCK"), limited_memlock():
        Region.create(key, 2**20, lock_memory=True)
    assert _native.sysv_find(key) == -errno.ENOENT
    assert not companion(key).exists()
    assert our_descriptors() == before


@contextlib.contextmanager
def limited_memlock() -> Iterator[None]:
    """No mlock, whoever we are: root may lock any number of bytes."""
    original = _native.lock_memory
    _native.lock_memory = lambda *_: -errno.ENOMEM
    try:
        yield
    finally:
        _native.lock_memory = original


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -1, 2**32, -(2**31)])
@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
def test_keys_out_of_range_are_refused(bad: int, make):
    with pytest.raises(ValueError, match="key"):
        make(bad, 1)


def test_only_create_takes_none():
    for make in (Region.attach, Region.open):
        with pytest.raises(TypeError, match="must be a str"):
            make(None, 1)


@pytest.mark.parametrize("make", [Region.create, Region.open])
def test_sized_is_for_names(key: int, make):
    with pytest.raises(ValueError, match="sized"):
        make(key, 1, layout="sized")


def test_a_taken_key_is_an_error_that_names_it(key: int):
    with Region.create(key, 1) as region:
        with pytest.raises(RegionExistsError, match=f"{key:#010x}") as caught:
            Region.create(key, 1)
        assert caught.value.errno == errno.EEXIST
        region.unlink()


def test_a_missing_key_is_an_error_that_names_it(key: int):
    with pytest.raises(RegionNotFoundError, match=f"{key:#010x}") as caught:
        Region.attach(key)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EINVAL, "SHMMAX"), (errno.ENOSPC, "shmmni.*shmall"), (errno.ENOMEM, "memory")],
)
def test_what_the_kernel_refuses_is_explained(key: int, monkeypatch, code: int, says: str):
    monkeypatch.setattr(_native, "sysv_create", lambda *_, **__: -code)
    with pytest.raises(OSError, match=f"(?s)4096.*{says}|8192.*{says}") as caught:
        Region.create(key, 4096)
    assert caught.value.errno == code
    assert not companion(key).exists()


def test_a_size_beyond_the_kernels_is_refused(key: int):
    with pytest.raises(OSError, match="bytes"):
        Region.create(key, 2**62, reserve=False)
    with pytest.raises(OSError, match="memory and swap"):
        Region.create(key, 2**50)


def test_a_segment_removed_while_it_is_attached_is_not_found(key: int, monkeypatch):
    number = foreign(key, 8)
    original = _native.sysv_stat

    def removed_meanwhile(which):
        found = original(which)
        _native.sysv_remove(which)
        return found

    monkeypatch.setattr(_native, "sysv_stat", removed_meanwhile)
    with pytest.raises(RegionNotFoundError):
        Region.attach(key)
    assert _native.sysv_stat(number)[0] < 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become others")
def test_a_stranger_is_refused_by_mode_by_owner_and_at_removal(key: int):
    program = """
import os, sys
from shm_async import Region
key = int(sys.argv[1])
os.setresuid(65534, 65534, 65534)
def says(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "fine"
def use(**keywords):
    with Region.attach(key, **keywords) as region:
        with region.read_lock():
            pass
        if keywords.get("unlink") is None:
            return region
print(says(lambda: use()), says(lambda: use(readonly=True)))
def remove():
    with Region.attach(key, readonly=True) as region:
        region.unlink()
print(says(remove))
"""
    with Region.create(key, 8) as region:
        assert in_another_process(program, key).split() == ["PermissionError"] * 3
        region.unlink()
    with Region.create(key, 8, mode=0o644) as region:
        assert in_another_process(program, key).split() == [
            "PermissionError",
            "fine",
            "PermissionError",
        ]
        region.unlink()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_companion_that_a_stranger_planted_is_refused(key: int):
    foreign(key, 8)
    companion(key).touch(0o666)
    os.chown(companion(key), 65534, 65534)
    with pytest.raises(PermissionError, match="65534"), Region.attach(key):
        pass
    with Region.attach(key, owner="any") as region, region.write_lock():
        pass
    region.unlink()


@pytest.mark.parametrize(
    "plant", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_what_is_no_companion_is_not_touched(key: int, plant):
    foreign(key, 8)
    plant(companion(key))
    try:
        with pytest.raises(RegionFormatError, match="shm_async.sysv.*is a"):
            Region.attach(key)
    finally:
        with contextlib.suppress(IsADirectoryError):
            companion(key).unlink()
        with contextlib.suppress(FileNotFoundError):
            companion(key).rmdir()
