"""The port of mmap-ipc: one object, one lock, for threads and for tasks."""

import errno
import fcntl
import gc
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess

import pytest
from peers import segment_of
from rivals import Rival, blocked_in_flock
from traces import locked_bytes
from waits import wait_until

from shm_async import OwnerDiedError, Region, RegionSizeError, _native
from shm_async.mmap_ipc import AsyncMmapIPC, MmapIPC

BOTH = pytest.mark.parametrize("kind", [MmapIPC, AsyncMmapIPC])


@pytest.fixture
def shared(name: str) -> Iterator[MmapIPC]:
    with MmapIPC(name, 64) as shared:
        yield shared


@pytest.fixture
def foreign(shared: MmapIPC) -> Iterator[Rival]:
    """What the lock looks like to a process that knows flock(2) alone."""
    rival = Rival(shared.region.name)
    yield rival
    rival.close()


# ---- the object ----------------------------------------------------------------------------------


@BOTH
def test_the_first_creates_the_object_and_the_second_sees_what_it_wrote(kind, name: str):
    with kind(name, 64) as first, kind(name, 64) as second:
        first.buffer()[:5] = b"hello"
        assert bytes(second.buffer()[:5]) == b"hello"
        assert len(second.buffer()) == 64
        assert os.stat(f"/dev/shm/{name}").st_size == 64


@BOTH
def test_a_new_object_is_for_its_owner_alone(kind, name: str):
    with kind(name, 64):
        assert stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) == 0o600


def test_it_maps_what_it_is_told_of_a_larger_object(name: str):
    with open(f"/dev/shm/{name}", "wb") as file:
        file.write(bytes(range(100)))
    with MmapIPC(name, 10) as shared:
        assert bytes(shared.buffer()) == bytes(range(10))


def test_a_smaller_object_is_an_error_and_stays_as_it_is(name: str):
    with open(f"/dev/shm/{name}", "wb") as file:
        file.write(b"abc")
    with pytest.raises(RegionSizeError, match=r"has 3 bytes, not 10: ask for fewer"):
        MmapIPC(name, 10)
    with open(f"/dev/shm/{name}", "rb") as file:
        assert file.read() == b"abc"


def test_it_shares_the_data_and_the_generation_of_a_managed_region(region: Region):
    with MmapIPC(region.name, 16) as shared:
        shared.acquire_write_lock()
        assert region.generation == 1
        shared.buffer()[:8] = (7).to_bytes(8, "little")
        shared.remove_lock()
        assert (region.generation, region.buffer[0]) == (2, 7)
        with pytest.raises(RegionSizeError, match="has 64 bytes, not 65"):
            MmapIPC(region.name, 65)  # the control page is not for others to write


def test_a_managed_regions_dead_writer_is_told_of(region: Region, run_python):
    run_python("""
import os, sys
from shm_async.mmap_ipc import MmapIPC
shared = MmapIPC(sys.argv[1], 64)
shared.acquire_write_lock()
os._exit(0)
""")
    with MmapIPC(region.name, 64) as shared:
        with pytest.raises(OwnerDiedError):
            shared.acquire_read_lock()
        assert shared.remove_lock() is False
        with shared.region.write_lock(recover=True):
            pass
        assert shared.acquire_read_lock() is True
        assert shared.remove_lock() is True


def test_the_name_outlives_every_buffer_and_object(name: str):
    with MmapIPC(name, 64) as shared:
        buffer = shared.buffer()
    del shared
    assert os.path.exists(f"/dev/shm/{name}")
    assert buffer[0] == 0  # stale, not a crash


@BOTH
@pytest.mark.parametrize("kept", [True, False], ids=["kept buffer", "no buffer"])
def test_an_object_that_is_collected_keeps_its_name_and_its_data(kind, kept: bool, name: str):
    shared = kind(name, 64)
    buffer = shared.buffer()
    buffer[0] = 7
    if not kept:
        del buffer
    with pytest.warns(ResourceWarning, match="never closed"):
        del shared
        gc.collect()
    if kept:
        buffer[1] = 8
        del buffer
        gc.collect()
    with MmapIPC(name, 64) as again:
        assert list(again.buffer()[:2]) == [7, 8 if kept else 0]
        assert not again.region.created


@BOTH
@pytest.mark.parametrize("size", [0, -1, 1.5, "64", True, None])
def test_a_size_that_makes_no_sense_is_refused_whether_the_object_exists_or_not(
    kind, name: str, size
):
    with pytest.raises((TypeError, ValueError), match="^size must be"):
        kind(name, size)
    assert not os.path.exists(f"/dev/shm/{name}")
    with MmapIPC(name, 64), pytest.raises((TypeError, ValueError), match="^size must be"):
        kind(name, size)
    assert os.stat(f"/dev/shm/{name}").st_size == 64


@BOTH
@pytest.mark.parametrize("given", [None, b"name", True, "", "/", "a/b", "..", "a\0b"])
def test_a_name_that_makes_no_sense_is_refused(kind, given):
    with pytest.raises((TypeError, ValueError), match="a region's name must"):
        kind(given, 64)


@BOTH
def test_a_number_is_no_name_and_no_key(kind, sysv_key: int):
    with pytest.raises(TypeError, match="a region's name must be a str, not int"):
        kind(sysv_key, 64)
    assert segment_of(sysv_key) is None


def test_a_store_beyond_the_buffer_is_an_error_and_changes_nothing(shared: MmapIPC):
    buffer = shared.buffer()
    for index in (64, -65):
        with pytest.raises(IndexError):
            buffer[index] = 1
    for value in (256, -1):
        with pytest.raises(ValueError, match="invalid value"):
            buffer[0] = value
    with pytest.raises(ValueError, match="different structures"):
        buffer[60:] = b"12345"
    assert bytes(buffer) == bytes(64)


@BOTH
@pytest.mark.parametrize("dtype", ["float64", "bool", "uint8_clamped"])
def test_the_buffer_is_bytes_whatever_the_region_has(kind, name: str, dtype: str):
    with Region.create(name, shape=(2, 3), dtype=dtype) as region, kind(name, 6) as shared:
        assert (shared.buffer().format, shared.buffer().shape) == ("B", (6,))
        shared.buffer()[:] = b"\1" * 6
        assert region.snapshot()[:6] == b"\1" * 6


@BOTH
def test_locking_the_memory_locks_it(kind, name: str):
    before = locked_bytes()
    for _ in ("created", "attached"):
        with kind(name, 2**16, lock_memory=True):
            assert locked_bytes() >= before + 2**16
        assert locked_bytes() == before


@BOTH
def test_memory_that_cannot_be_locked_is_an_error_and_creates_nothing(
    kind, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_native, "lock_memory", lambda *_: -errno.ENOMEM)
    with pytest.raises(OSError, match="RLIMIT_MEMLOCK allows"):
        kind(name, 64, lock_memory=True)
    assert not os.path.exists(f"/dev/shm/{name}")


# ---- the lock, for threads -----------------------------------------------------------------------


def test_removing_a_lock_tells_whether_there_was_one(shared: MmapIPC):
    assert shared.remove_lock() is False
    assert shared.acquire_read_lock() is True
    assert shared.remove_lock() is True
    assert shared.acquire_write_lock() is True
    assert shared.remove_lock() is True
    assert shared.remove_lock() is False


def test_a_read_lock_is_a_shared_flock(shared: MmapIPC, foreign: Rival):
    shared.acquire_read_lock()
    shared.acquire_read_lock()  # once more is no second lock
    assert foreign.do("try-shared") == "done"
    foreign.do("unlock")
    assert foreign.do("try-exclusive") == "busy"
    shared.remove_lock()
    assert foreign.do("try-exclusive") == "done"


def test_a_write_lock_is_an_exclusive_flock(shared: MmapIPC, foreign: Rival):
    shared.acquire_write_lock()
    assert foreign.do("try-shared") == "busy"
    shared.remove_lock()
    assert foreign.do("try-shared") == "done"


def test_asking_for_the_other_lock_converts_the_one_that_is_held(shared: MmapIPC, foreign: Rival):
    shared.acquire_read_lock()
    shared.acquire_write_lock()
    assert foreign.do("try-shared") == "busy"
    shared.acquire_read_lock()
    assert foreign.do("try-shared") == "done"
    assert shared.remove_lock() is True
    assert shared.remove_lock() is False


def test_it_blocks_until_another_process_lets_go(shared: MmapIPC, foreign: Rival):
    foreign.do("exclusive")
    granted = []

    def work():
        granted.append(shared.acquire_write_lock())
        granted.append(shared.remove_lock())

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: shared.region.statistics().waiting == 1)
    assert granted == []
    foreign.do("unlock")
    thread.join(10)
    assert granted == [True, True]


def test_an_upgrade_blocks_until_the_other_readers_are_gone(shared: MmapIPC, foreign: Rival):
    foreign.do("shared")
    events = []
    granted, seen = threading.Event(), threading.Event()

    def work():
        events.append(shared.acquire_read_lock())
        events.append(shared.acquire_write_lock())
        granted.set()
        seen.wait(10)
        events.append(shared.remove_lock())

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    assert events == [True]
    foreign.do("unlock")
    assert granted.wait(10)
    assert foreign.do("try-shared") == "busy"
    seen.set()
    thread.join(10)
    assert events == [True, True, True]


def test_threads_exclude_each_other_and_remove_only_their_own_lock(shared: MmapIPC):
    shared.acquire_write_lock()
    events = []
    inside = threading.Event()

    def other():
        events.append(shared.remove_lock())
        inside.set()
        events.append(shared.acquire_write_lock())
        events.append(shared.remove_lock())

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    wait_until(lambda: shared.region.statistics().waiting == 1)
    assert events == [False]
    shared.remove_lock()
    thread.join(10)
    assert events == [False, True, True]


def test_a_signal_handlers_exception_ends_the_wait_and_nothing_is_held(
    shared: MmapIPC, foreign: Rival
):
    foreign.do("exclusive")

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            shared.acquire_write_lock()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert shared.remove_lock() is False
    foreign.do("unlock")
    assert shared.acquire_write_lock() is True
    assert shared.remove_lock() is True


def test_a_child_has_no_lock_and_does_not_reach_its_parents(
    name: str, run_python: Callable[..., "CompletedProcess[str]"]
):
    result = run_python("""
import os, sys, warnings
warnings.simplefilter("error")
from shm_async.mmap_ipc import MmapIPC
shared = MmapIPC(sys.argv[1], 64)
shared.acquire_write_lock()
child = os.fork()
if child == 0:
    print("child removes", shared.remove_lock(), flush=True)
    import fcntl
    fd = os.open("/dev/shm/" + sys.argv[1], os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("the parent's lock stands", flush=True)
    shared.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent removes", shared.remove_lock())
shared.close()
""")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "child removes False",
        "the parent's lock stands",
        "parent removes True",
    ]


def test_a_lock_ends_with_its_process(shared: MmapIPC, run_python):
    run_python("""
import os, sys
from shm_async.mmap_ipc import MmapIPC
shared = MmapIPC(sys.argv[1], 64)
shared.acquire_write_lock()
os._exit(0)
""")
    fd = os.open(f"/dev/shm/{shared.region.name}", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
