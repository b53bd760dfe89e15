"""Creating a POSIX object: old kernels, signals while the kernel reserves, a small /dev/shm."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
from privileges import needs, needs_shm
from waits import wait_until

from shm_async import Region, RegionExistsError, RegionSizeError, _native
from shm_async._memory import posix, publish, room

# ---- create where O_TMPFILE or /proc is missing ------------------------------------------------


@pytest.fixture(params=["no O_TMPFILE", "no /proc"])
def old_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no /proc":
        monkeypatch.setattr(publish, "FD_DIR", "/proc/nowhere")
        return
    genuine = os.open

    def refuse(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE")
        return genuine(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.usefixtures("old_kernel")
def test_an_old_kernel_creates_attaches_and_locks_all_the_same(name: str):
    with Region.create(name, 5, dtype="int16", mode=0o640) as region:
        assert os.stat(f"/dev/shm/{name}").st_mode & 0o777 == 0o640
        with Region.attach(name) as other:
            assert (other.dtype, len(other), other.layout) == ("int16", 5, "managed")
            with region.write_lock() as view, pytest.raises(BlockingIOError):
                view[0] = -3
                other.read_lock().acquire_nowait()
            with other.read_lock() as view:
                assert view[0] == -3
        with pytest.raises(RegionExistsError):
            Region.create(name, 5)


@pytest.mark.usefixtures("old_kernel")
def test_an_old_kernel_leaves_no_name_when_creation_fails(name: str, monkeypatch):
    def refuse(fd: int, size: int, name: str) -> None:
        raise OSError(errno.ENOSPC, "full", name)

    monkeypatch.setattr("shm_async._native.reserve", refuse)
    with pytest.raises(OSError, match="bytes wanted"):
        Region.create(name, 5)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_an_attacher_waits_for_a_creator_that_is_not_done(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(posix, "CREATION_PATIENCE", 60)
    fd = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_RDWR)
    attached: list[Region] = []
    thread = threading.Thread(target=lambda: attached.append(Region.attach(name)))
    thread.start()
    assert not attached
    os.ftruncate(fd, 100)
    thread.join()
    os.close(fd)
    with attached[0] as region:
        assert (len(region), region.layout) == (100, "raw")


def test_an_attacher_does_not_wait_for_a_dead_creator_for_ever(name: str, monkeypatch):
    monkeypatch.setattr(posix, "CREATION_PATIENCE", 0.05)
    Path(f"/dev/shm/{name}").touch()
    with pytest.raises(RegionSizeError, match="creator seems to have died"):
        Region.attach(name)


# ---- signals while the kernel reserves ---------------------------------------------------------


MIB = 2**20


class Interrupted:
    """The shim on a kernel where a signal comes in every call that reserves more than 1 MiB.

    Such a call leaves nothing reserved, as on Linux before 6.0.
    """

    def __init__(self, full_after: int | None = None) -> None:
        self.lib = _native.lib
        self.full_after = full_after  # bytes
        self.calls = 0

    def __getattr__(self, name: str):
        return getattr(self.lib, name)

    def shma_segment_reserve(self, fd: int, start: int, size: int) -> int:
        self.calls += 1
        if size > MIB:
            return -errno.EINTR
        if self.full_after is not None and start + size > self.full_after:
            return -errno.ENOSPC
        return self.lib.shma_segment_reserve(fd, start, size)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    monkeypatch.setattr(_native, "lib", Interrupted())
    return _native.lib


def reserved(name: str) -> int:
    return os.stat(f"/dev/shm/{name}").st_blocks * 512


def test_an_interrupted_reservation_keeps_what_is_done(name: str, interrupted: Interrupted):
    with Region.create(name, 4 * MIB + 1) as region:
        assert reserved(name) >= 4 * MIB + 1
        assert interrupted.calls < 15
        region.resize(7 * MIB)
        assert reserved(name) >= 7 * MIB


@pytest.mark.usefixtures("old_kernel")
def test_an_interrupted_reservation_keeps_what_is_done_on_an_old_kernel(
    name: str, interrupted: Interrupted
):
    with Region.create(name, 4 * MIB + 1) as region:
        assert reserved(name) >= 4 * MIB + 1
        region.resize(7 * MIB)
        assert reserved(name) >= 7 * MIB


def test_an_interrupted_attach_keeps_what_is_reserved(name: str, interrupted: Interrupted):
    Path(f"/dev/shm/{name}").touch()
    os.truncate(f"/dev/shm/{name}", 5 * MIB)
    with Region.attach(name):
        assert reserved(name) >= 5 * MIB


def until_free(before: int) -> None:
    """Wait until as much is free as before: tests beside this one use memory for a while, too."""
    wait_until(lambda: before - room.HOST.free_bytes() < MIB)


def demand_that_nothing_stays(name: str, interrupted: Interrupted) -> None:
    before = room.HOST.free_bytes()
    interrupted.full_after = 5 * MIB
    with pytest.raises(OSError, match="bytes wanted") as caught:
        Region.create(name, 8 * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert not os.path.lexists(f"/dev/shm/{name}")
    until_free(before)


def test_what_an_interrupted_reservation_had_is_given_back_if_it_fails(
    name: str, interrupted: Interrupted
):
    demand_that_nothing_stays(name, interrupted)


@pytest.mark.usefixtures("old_kernel")
def test_what_an_interrupted_reservation_had_is_given_back_on_an_old_kernel(
    name: str, interrupted: Interrupted
):
    demand_that_nothing_stays(name, interrupted)


def test_a_resize_that_fails_half_way_leaves_what_there_was(name: str, interrupted: Interrupted):
    with Region.create(name, 2 * MIB) as region:
        before = room.HOST.free_bytes()
        interrupted.full_after = 5 * MIB
        with pytest.raises(OSError, match="bytes wanted"):
            region.resize(8 * MIB)
        assert len(region) == 2 * MIB
        until_free(before)


@needs_shm(257 * MIB)
def test_a_profilers_timer_does_not_keep_a_region_from_being_made(name: str):
    ticks = 0

    def tick(*_: object) -> None:
        nonlocal ticks
        ticks += 1

    before = signal.signal(signal.SIGPROF, tick)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    try:
        with Region.create(name, 256 * MIB):
            assert reserved(name) >= 256 * MIB
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert ticks


# ---- a small /dev/shm --------------------------------------------------------------------------


FULL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
    sys.exit("cannot unshare")
if libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=1m"):
    sys.exit("cannot mount")
import shm_async
first = shm_async.Region.create("a", 600_000)
try:
    shm_async.Region.create("b", 600_000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print(error)
assert os.listdir("/dev/shm") == ["a"]
sparse = shm_async.Region.create("c", 600_000, reserve=False)
fd = os.open("/dev/shm/d", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 600_000)
try:
    shm_async.Region.attach("d")
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print(error)
os.close(fd)
try:
    first.resize(700_000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print(error)
with first.write_lock() as view:
    view[599_999] = 1
sparse.resize(700_000)
for page in range(90):
    sparse.buffer[page * 4096] = 1
try:
    sparse.resize(800_000)
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print(error)
assert len(sparse) == 700_000 and sparse.buffer[89 * 4096] == 1
assert sorted(os.listdir("/dev/shm")) == ["a", "c", "d"]
first.close(), sparse.close()
"""


@needs("a mount")
def test_a_full_shm_is_an_error_with_figures_and_never_a_sigbus(run_python):
    done = run_python(FULL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("bytes wanted" in line and "bytes free" in line for line in lines)
