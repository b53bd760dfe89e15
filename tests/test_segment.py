import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from shm_async import (
    Region,
    RegionExistsError,
    RegionFormatError,
    RegionNotFoundError,
    RegionSizeError,
    segment,
)

# ---- names -------------------------------------------------------------------


def test_the_leading_slash_is_optional(name: str):
    with Region.create("/" + name, 1) as region, Region.attach(name) as other:
        assert region.name == other.name == name


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("a/b", "'/'"),
        ("//a", "'/'"),
        ("a/", "'/'"),
        (".", r"'\.\.'"),
        ("..", r"'\.\.'"),
        ("/..", r"'\.\.'"),
        ("a\0b", "NUL"),
        ("x" * 300, "255 bytes"),
        ("ä" * 128, "255 bytes"),
    ],
)
@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
def test_a_bad_name_is_told_its_rule(bad: str, rule: str, make):
    with pytest.raises(ValueError, match=rule):
        make(bad, 1)


@pytest.mark.parametrize("bad", [True, b"name", 7.0, ["name"]])
@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
def test_a_name_must_be_a_str(bad: object, make):
    with pytest.raises(TypeError, match="name must be a str"):
        make(bad, 1)


def test_the_longest_name_and_odd_ones_work():
    for odd in ("n" * 255, "ä" * 127, "a b\n\tc", "-rf", "...", "\udcff"):
        with Region.create(odd, 1) as region:
            region.unlink()


# ---- create ------------------------------------------------------------------


def test_creating_over_something_leaves_it_untouched(region: Region, name: str):
    with region.write_lock() as view:
        view[0] = 42
    before = Path(f"/dev/shm/{name}").read_bytes()
    with pytest.raises(RegionExistsError, match="exists already") as caught:
        Region.create(name, 100)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
    assert Path(f"/dev/shm/{name}").read_bytes() == before


def test_a_dangling_symlink_has_the_name_too(name: str):
    os.symlink("/nowhere", f"/dev/shm/{name}")
    with pytest.raises(RegionExistsError):
        Region.create(name, 1)
    assert os.path.islink(f"/dev/shm/{name}")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o400, 0])
def test_the_mode_is_exact_whatever_the_umask(name: str, mode: int):
    old = os.umask(0o777)
    try:
        region = Region.create(name, 1, mode=mode)
    finally:
        os.umask(old)
    with region:
        assert os.stat(f"/dev/shm/{name}").st_mode & 0o7777 == mode


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755, 2**40])
def test_a_mode_out_of_range_is_refused(name: str, mode: int):
    with pytest.raises(ValueError, match="mode must be between"):
        Region.create(name, 1, mode=mode)


@pytest.mark.parametrize("mode", ["0600", None, 6.0, True])
def test_a_mode_must_be_an_int(name: str, mode: object):
    with pytest.raises(TypeError, match="mode must be an int"):
        Region.create(name, 1, mode=mode)


def test_memory_is_reserved_unless_asked_otherwise(name: str):
    with Region.create(name, 2**20) as region:
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 2**20
        region.unlink()
    with Region.create(name, 2**20, reserve=False):
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 < 2**20


@pytest.mark.parametrize("length", [2**50, 2**62, 2**63, 2**100])
def test_more_than_there_is_room_for_is_told_with_figures(name: str, length: int):
    with pytest.raises(OSError, match=r"^.* [0-9]+ bytes wanted, [0-9]+ bytes free") as caught:
        Region.create(name, length)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, name)


def test_more_than_memory_is_refused_before_the_killer_comes(name: str, monkeypatch):
    monkeypatch.setattr(segment, "available_memory", lambda: 2**20)
    with pytest.raises(OSError, match="1048576 bytes of memory and swap") as caught:
        Region.create(name, 2**20 + 1)
    assert caught.value.errno == errno.ENOMEM
    monkeypatch.undo()
    assert 2**20 < segment.available_memory() < 2**60


@pytest.mark.parametrize("length", [2**63, 2**100])
def test_a_sparse_object_has_its_limits_too(name: str, length: int):
    with pytest.raises(OSError, match="bytes") as caught:
        Region.create(name, length, reserve=False)
    assert caught.value.errno in (errno.EFBIG, errno.EINVAL, errno.ENOMEM)


def test_creators_race_and_one_wins(name: str):
    barrier = threading.Barrier(8)
    outcomes: list[object] = []

    def create() -> None:
        barrier.wait()
        try:
            outcomes.append(Region.create(name, 1000))
        except RegionExistsError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, Region)]
    assert len(winners) == 1
    assert len(outcomes) == 8
    winners[0].close()


def test_openers_race_and_all_get_the_same_region(name: str):
    barrier = threading.Barrier(8)
    regions: list[Region] = []

    def open_it() -> None:
        barrier.wait()
        regions.append(Region.open(name, 4, dtype="uint64"))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(region.created for region in regions) == [False] * 7 + [True]
    for region in regions:
        with region.write_lock() as view:
            view[0] += 1
    assert regions[0].buffer[0] == 8
    for region in regions:
        region.close()


# ---- create where O_TMPFILE or /proc is missing ---------------------------------


@pytest.fixture(params=["no O_TMPFILE", "no /proc"])
def old_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no /proc":
        monkeypatch.setattr(segment, "FD_DIR", "/proc/nowhere")
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


def test_an_attacher_waits_for_a_creator_that_is_not_done(name: str):
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
    monkeypatch.setattr(segment, "CREATION_PATIENCE", 0.05)
    Path(f"/dev/shm/{name}").touch()
    with pytest.raises(RegionSizeError, match="creator seems to have died"):
        Region.attach(name)


# ---- attach ------------------------------------------------------------------


def test_attaching_to_nothing(name: str):
    with pytest.raises(RegionNotFoundError, match="no such region") as caught:
        Region.attach(name)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)


def make_fifo(path: str) -> None:
    os.mkfifo(path)


def make_directory(path: str) -> None:
    os.mkdir(path)


def make_symlink(path: str) -> None:
    os.symlink("/etc/hostname", path)


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def make_hard_link(path: str) -> None:
    Path(path + "-other").write_bytes(bytes(100))
    os.link(path + "-other", path)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_fifo, "a FIFO"),
        (make_directory, "a directory"),
        (make_symlink, "a symbolic link"),
        (make_socket, "a socket"),
        (make_hard_link, "2 hard links"),
    ],
)
@pytest.mark.timeout(10)
def test_what_is_no_shared_memory_is_named_and_never_hangs(
    name: str, make, says: str, readonly: bool
):
    path = f"/dev/shm/{name}"
    make(path)
    try:
        with pytest.raises(RegionFormatError, match=says):
            Region.attach(name, readonly=readonly)
        with pytest.raises(RegionFormatError, match=says):
            Region.open(name, 1)
        assert os.path.lexists(path)
    finally:
        if make is make_directory:
            os.rmdir(path)
        if make is make_hard_link:
            os.unlink(path + "-other")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_region_needs_trust(name: str):
    with Region.create(name, 1):
        os.chown(f"/dev/shm/{name}", 12345, -1)
        with pytest.raises(PermissionError, match="user 12345.*owner='any'") as caught:
            Region.attach(name)
        assert caught.value.errno == errno.EACCES
        Region.attach(name, owner="any").close()
        Region.open(name, 1, owner="any").close()


@pytest.mark.parametrize("owner", ["", "root", None, 0])
def test_an_unknown_owner_is_refused(region: Region, owner: object):
    with pytest.raises(ValueError, match="owner must be"):
        Region.attach(region.name, owner=owner)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_missing_permission_is_told_with_the_way_out(region: Region, run_python):
    os.chmod(f"/dev/shm/{region.name}", 0o644)
    program = """
import os, sys, shm_async
os.setgid(12345); os.setuid(12345)
try:
    shm_async.Region.attach(sys.argv[1])
except PermissionError as error:
    print(error)
with shm_async.Region.attach(sys.argv[1], readonly=True) as region:
    with region.read_lock() as view:
        print("read", view[0])
"""
    done = run_python(program)
    assert done.stderr == ""
    assert "try readonly=True" in done.stdout
    assert "read 0" in done.stdout


def test_attaching_reserves_what_a_foreign_creator_left_out(name: str):
    Path(f"/dev/shm/{name}").touch()
    os.truncate(f"/dev/shm/{name}", 2**20)
    with Region.attach(name, readonly=True):
        assert os.stat(f"/dev/shm/{name}").st_blocks == 0
    with Region.attach(name):
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 2**20


def test_attaching_respects_what_our_creator_left_out(name: str):
    with Region.create(name, 2**20, reserve=False), Region.attach(name):
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 < 2**20


# ---- unlink ------------------------------------------------------------------


def test_unlinking_twice_is_an_error(region: Region):
    region.unlink()
    with pytest.raises(RegionNotFoundError):
        region.unlink()


def test_unlink_leaves_another_object_of_that_name_alone(region: Region, name: str):
    region.unlink()
    with Region.create(name, 1) as second:
        assert not region.linked
        with pytest.raises(RegionNotFoundError, match="another object"):
            region.unlink()
        assert second.linked


def test_unlink_works_after_close(name: str):
    region = Region.create(name, 1)
    region.close()
    region.unlink()
    assert not os.path.exists(f"/dev/shm/{name}")


# ---- a small /dev/shm ----------------------------------------------------------

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small /dev/shm")
def test_a_full_shm_is_an_error_with_figures_and_never_a_sigbus(run_python):
    done = run_python(FULL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("bytes wanted" in line and "bytes free" in line for line in lines)
