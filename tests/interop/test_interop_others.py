"""The same objects through others: CPython's SharedMemory, posix_ipc, sysv_ipc, flock(1)."""

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory

import posix_ipc
import pytest

from shm_async import Region, RegionExistsError, RegionNotFoundError
from shm_async.mmap_ipc import MmapIPC

SIZE = 4096


# ---- CPython's SharedMemory --------------------------------------------------


@contextlib.contextmanager
def shared_memory_of(name: str, *, create: bool) -> Iterator[shared_memory.SharedMemory]:
    """CPython's own, kept from its tracker, which would unlink what others use."""
    if sys.version_info >= (3, 13):
        memory = shared_memory.SharedMemory(name, create=create, size=SIZE, track=False)
    else:
        memory = shared_memory.SharedMemory(name, create=create, size=SIZE)
        resource_tracker.unregister(memory._name, "shared_memory")
    try:
        yield memory
    finally:
        memory.close()


def test_cpython_creates_and_a_region_reads_and_answers(name: str):
    with shared_memory_of(name, create=True) as memory:
        memory.buf[:4] = b"ping"
        with Region.attach(name) as region:
            assert (region.layout, len(region)) == ("raw", SIZE)
            with region.write_lock() as view:
                assert bytes(view[:4]) == b"ping"
                view[:4] = b"pong"
        assert bytes(memory.buf[:4]) == b"pong"


@pytest.mark.parametrize("layout", ["raw", "managed"])
def test_a_region_creates_and_cpython_reads_and_answers(name: str, layout):
    with Region.create(name, 100, dtype="float64", layout=layout) as region:
        region.buffer[3] = 1.5
        with shared_memory_of(name, create=False) as memory:
            doubles = memory.buf[:800].cast("d")
            assert doubles[3] == 1.5
            doubles[4] = 2.5
            doubles.release()
        assert region.buffer[4] == 2.5


def test_of_cpython_and_us_only_one_creates(name: str):
    with shared_memory_of(name, create=True):
        with pytest.raises(RegionExistsError):
            Region.create(name, 1)
    os.unlink(f"/dev/shm/{name}")
    with Region.create(name, 1):
        with pytest.raises(FileExistsError):
            shared_memory.SharedMemory(name, create=True, size=1)


def test_what_cpython_unlinked_is_gone_for_us_and_who_is_attached_stays(name: str):
    with shared_memory_of(name, create=True) as memory, Region.attach(name) as region:
        os.unlink(f"/dev/shm/{name}")  # what SharedMemory.unlink does, without its tracker
        with pytest.raises(RegionNotFoundError):
            Region.attach(name)
        assert not region.linked
        memory.buf[0] = 7
        assert region.buffer[0] == 7


# ---- posix_ipc ---------------------------------------------------------------


@contextlib.contextmanager
def mapped(memory: posix_ipc.SharedMemory) -> Iterator[mmap.mmap]:
    try:
        with mmap.mmap(memory.fd, 0) as view:
            yield view
    finally:
        memory.close_fd()


def test_posix_ipc_creates_and_a_region_reads_and_answers(name: str):
    with mapped(posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=SIZE)) as view:
        view[:4] = b"ping"
        with Region.attach(f"/{name}", 4) as region:
            assert bytes(region.buffer) == b"ping"
            region.buffer[:] = b"pong"
        assert view[:4] == b"pong"


def test_a_region_creates_and_posix_ipc_sees_its_size_and_its_bytes(name: str):
    with Region.create(name, SIZE, layout="raw") as region:
        region.buffer[:4] = b"ping"
        memory = posix_ipc.SharedMemory(f"/{name}")
        with mapped(memory) as view:
            assert memory.size == SIZE
            assert view[:4] == b"ping"
            view[:4] = b"pong"
        assert bytes(region.buffer[:4]) == b"pong"


def test_unlinking_means_the_same_to_posix_ipc_and_to_us(name: str):
    with Region.create(name, 1):
        posix_ipc.unlink_shared_memory(f"/{name}")
        with pytest.raises(RegionNotFoundError):
            Region.attach(name)
    with Region.create(name, 1) as region:
        region.unlink()
        with pytest.raises(posix_ipc.ExistentialError):
            posix_ipc.SharedMemory(f"/{name}")


# ---- what mmap-ipc does, done by hand ------------------------------------------


def as_mmap_ipc_creates(name: str, size: int) -> int:
    """Its steps, and its descriptor, which takes its flocks."""
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o777)
    os.ftruncate(fd, size)
    return fd


def test_the_ports_bytes_are_mmap_ipcs_bytes_in_both_directions(name: str):
    fd = as_mmap_ipc_creates(name, SIZE)
    try:
        with mmap.mmap(fd, SIZE) as theirs, MmapIPC(name, SIZE) as ours:
            theirs[:4] = b"ping"
            assert bytes(ours.buffer()[:4]) == b"ping"
            ours.buffer()[SIZE - 4 :] = b"pong"
            assert theirs[SIZE - 4 :] == b"pong"
    finally:
        os.close(fd)


def test_mmap_ipc_can_attach_to_a_managed_region_and_does_not_reach_its_control_page(name: str):
    with Region.create(name, SIZE) as region:
        with contextlib.ExitStack() as stack:
            with open(f"/dev/shm/{name}", "r+b") as file:
                theirs = stack.enter_context(mmap.mmap(file.fileno(), SIZE))
            theirs[:] = b"\xff" * SIZE
            with Region.attach(name) as again, again.read_lock() as view:
                assert bytes(view) == b"\xff" * SIZE
        assert region.generation == 0


def test_when_mmap_ipc_unlinks_under_our_feet_we_go_on_and_can_tell(name: str):
    fd = as_mmap_ipc_creates(name, 8)
    try:
        with MmapIPC(name, 8) as ours:
            os.unlink(f"/dev/shm/{name}")  # it does so when it collects a buffer
            assert not ours.region.linked
            ours.acquire_write_lock()
            ours.buffer()[0] = 1
            ours.remove_lock()
            assert os.pread(fd, 1, 0) == b"\x01"
    finally:
        os.close(fd)


FLOCK = shutil.which("flock")


def flock_says(name: str, *options: str) -> bool:
    """Whether flock(1), another program altogether, gets that lock without waiting."""
    assert FLOCK is not None
    command = [FLOCK, "--nonblock", *options, f"/dev/shm/{name}", "true"]
    return subprocess.run(command, check=False, timeout=10).returncode == 0


@pytest.mark.skipif(FLOCK is None, reason="no flock(1) here (Debian: util-linux)")
def test_flock_1_sees_the_ports_locks(name: str):
    with MmapIPC(name, 8) as ours:
        assert flock_says(name, "--exclusive")
        ours.acquire_read_lock()
        assert flock_says(name, "--shared")
        assert not flock_says(name, "--exclusive")
        ours.acquire_write_lock()
        assert not flock_says(name, "--shared")
        ours.remove_lock()
        assert flock_says(name, "--exclusive")
