"""Holders: what cannot be known is not guessed."""

import errno
import os
import struct
from pathlib import Path

import pytest
from dying import writer_dies
from holding import COMMAND, kinds, me
from privileges import needs
from rivals import Rival

from shm_async import Holder, Region
from shm_async._memory import control, proclocks


def test_a_dead_writers_time_is_not_anothers(region: Region, rival: Rival):
    writer_dies(region)
    rival.do("exclusive")
    (found,) = region.holders()
    assert (found.pid, found.since) == (rival.process.pid, None)


def scribble(region: Region, offset: int, form: str, value: int) -> None:
    with open(f"/dev/shm/{region.name}", "r+b") as file:
        file.seek(-control.CONTROL_SIZE + offset, os.SEEK_END)
        file.write(struct.pack(form, value))


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (128, "Q", 2),  # the generation says that nobody writes
        (136, "Q", 1),  # the process began at another time
        (144, "I", 1),  # another process writes
        (152, "Q", 2**64 - 1),  # it will begin to write in 584 years
    ],
)
def test_a_time_that_does_not_fit_is_not_told(region: Region, offset: int, form: str, value: int):
    with region.write_lock():
        genuine = region.holders()[0].since
        scribble(region, offset, form, value)
        assert region.holders() == (Holder(os.getpid(), COMMAND, "write", False, None),)
        assert genuine is not None


def test_a_writer_that_came_while_the_kernel_was_asked_is_told_no_other_ones_time(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    genuine = proclocks.rows_of_host

    def slow(name: str):
        rows = genuine(name)
        scribble(region, 128, "Q", 17)
        return rows

    with region.write_lock():
        monkeypatch.setattr(proclocks, "rows_of_host", slow)
        assert me(region)[0].since is None


def test_a_truncated_region_is_no_crash(region: Region, rival: Rival):
    rival.do("exclusive")
    rival.do("truncate 0")
    assert kinds(region) == [(rival.process.pid, "write", False)]


@pytest.fixture
def rows(region: Region, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Replaces the kernel's list; {} stands for the region's object."""
    found = os.stat(f"/dev/shm/{region.name}")
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"

    def replace(*lines: str) -> None:
        path = tmp_path / "locks"
        path.write_text("".join(line.format(place) + "\n" for line in lines))
        monkeypatch.setattr(proclocks, "LOCKS", str(path))

    return replace


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_that_the_kernel_does_not_name_has_no_name(region: Region, rows, pid: int):
    rows(f"1: FLOCK  ADVISORY  WRITE {pid} {{}} 0 EOF")
    assert region.holders() == (Holder(None, None, "write", False, None),)


def test_a_process_that_has_vanished_meanwhile_has_no_command(region: Region, rows):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    rows(f"1: FLOCK  ADVISORY  READ {child} {{}} 0 EOF")
    assert region.holders() == (Holder(child, None, "read", False, None),)


def test_a_living_writers_time_is_not_anothers(region: Region, rows):
    with region.write_lock():
        rows("1: FLOCK  ADVISORY  WRITE 1 {} 0 EOF")
        (found,) = region.holders()
    assert (found.pid, found.since) == (1, None)


def test_rows_of_other_sorts_are_passed_over(region: Region, rows):
    rows(
        "1: LEASE  ACTIVE    READ  1 {} 0 EOF",
        "2: POSIX  ADVISORY  WRITE 1 {} 0 EOF",
        "3: DELEG  ACTIVE    UNKNOWN 1 {} 0 EOF",
        "4: FLOCK  ADVISORY  WRITE 1 <none>:0 0 EOF",
        "5: OFDLCK ADVISORY  WRITE -1 {} 4611686018427387904 4611686018427387904",
        "5: -> OFDLCK ADVISORY  WRITE -1 {} 7 7",
        "6: FLOCK  ADVISORY  READ  1 ff:ff:1 0 EOF",
        "",
        "7: FLOCK",
        "8:  -> FLOCK  ADVISORY  READ 1 {} 0 EOF",
    )
    assert kinds(region) == [(1, "read", True)]


def test_a_command_may_have_any_bytes_and_lines(region: Region):
    said, told = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Path("/proc/self/comm").write_bytes(b"a\n1: \xff\x1b b")
            with region.read_lock():
                os.write(told, b".")
                os.read(wait, 1)
        finally:
            os._exit(0)
    assert os.read(said, 1) == b"."
    (found,) = region.holders()
    os.write(go, b".")
    os.waitpid(pid, 0)
    for fd in (said, told, wait, go):
        os.close(fd)
    assert (found.pid, found.command) == (pid, "a\n1: \\xff\x1b b")


def test_without_proc_it_says_so(region: Region, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proclocks, "LOCKS", "/proc/nowhere")
    with pytest.raises(OSError, match="no /proc/nowhere") as caught:
        region.holders()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSYS, region.name)


HIDDEN = """
import ctypes, os, shm_async, sys
CLONE_NEWPID, CLONE_NEWNS, PRIVATE = 0x20000000, 0x00020000, 0x44000
libc = ctypes.CDLL(None, use_errno=True)
region = shm_async.Region.attach(sys.argv[1])
if libc.unshare(CLONE_NEWPID | CLONE_NEWNS):
    sys.exit("cannot unshare")
pid = os.fork()
if pid == 0:
    libc.mount(b"none", b"/", None, PRIVATE, None)
    assert libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0
    print(region.holders())
    try:
        region.read_lock().acquire_nowait()
    except BlockingIOError:
        print("busy")
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
region.close()
"""


@needs("a pid namespace")
def test_another_pid_namespace_does_not_see_us_and_is_kept_out_all_the_same(
    region: Region, run_python
):
    with region.write_lock():
        done = run_python(HIDDEN)
    assert (done.stderr, done.stdout) == ("", "()\nbusy\n")
