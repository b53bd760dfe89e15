"""Inspecting: nobody notices it, and what the kernel hides is not guessed."""

import contextlib
import errno
import fcntl
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import look
from privileges import needs
from programs import path_of_tests
from rivals import Rival
from traces import shm_entries
from waits import wait_until

import shm_async
from shm_async import Region
from shm_async._memory import proclocks
from shm_async._watch import objects

NOBODY = 12345  # a user of that number


# ---- nobody notices ----------------------------------------------------------------------------


def test_looking_takes_no_lock_and_leaves_nothing(region: Region):
    def state() -> tuple[object, ...]:
        facts = os.stat(f"/dev/shm/{region.name}")
        rows = [row for row in proclocks.rows_of_host("") if row.object[2] == facts.st_ino]
        times = (facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns)
        return rows, times, shm_entries(), os.listdir("/proc/self/fd")

    before = state()
    look(region.name, descriptors=True)
    assert state() == before


def test_looking_does_not_wait_for_a_writer(region: Region, rival: Rival):
    rival.do("exclusive")
    with region_gate_taken(rival):
        assert look(region.name).state == "writing"


@contextlib.contextmanager
def region_gate_taken(rival: Rival) -> Iterator[None]:
    rival.do("gate")
    yield
    rival.do("leave")


def test_looking_breaks_no_lease(name: str):
    path = f"/dev/shm/{name}"
    Path(path).write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    came: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: came.append(number))
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        info = look(name)
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    assert came == []
    assert info.layout is None
    assert "lease" in (info.problem or "")


def test_looking_does_not_lose_ones_own_fcntl_locks(name: str):
    path = f"/dev/shm/{name}"
    Path(path).write_bytes(bytes(8192))
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert look(name).layout is None
        rows = [row for row in proclocks.rows_of_host("") if row.sort == "POSIX"]
        assert os.stat(path).st_ino in {row.object[2] for row in rows}


def test_a_region_that_goes_while_it_looks_is_left_out(name: str, monkeypatch: pytest.MonkeyPatch):
    Region.create(name, 4).close()
    genuine = objects._named

    def racing() -> list[tuple[int, str]]:
        found = list(genuine())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/{name}")
        return found

    monkeypatch.setattr(objects, "_named", racing)
    assert shm_async.inspect(name) == ()


def test_a_region_that_comes_while_it_looks_is_not_taken_for_unlinked(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    genuine = objects._named
    with Region.create(name, 4):
        looks = itertools.chain([[]], itertools.repeat(list(genuine())))
        monkeypatch.setattr(objects, "_named", lambda: next(looks))
        inode = os.stat(f"/dev/shm/{name}").st_ino  # others' orphans are none of ours
        ours = {name, f"#{inode}"}  # the kernel knows no other name of one that had none at first
        found = [info for info in shm_async.inspect() if info.name in ours]  # it may be missed
        assert all(info.linked for info in found)


def test_names_and_commands_may_be_anything(name: str):
    strange = f"{name}\x1b[31m\n\udcff"
    Path(f"/dev/shm/{strange}").write_bytes(bytes(10))
    try:
        assert look(strange).name == strange
    finally:
        os.unlink(f"/dev/shm/{strange}")


def test_a_mapping_without_a_descriptor_counts(name: str):
    region = Region.create(name, 4)
    view = region.buffer
    region.close()
    info = look(name, descriptors=True)
    [process] = info.processes
    assert (process.pid, process.mapped, process.descriptors) == (os.getpid(), True, ())
    assert (info.attachments, info.state) == (0, "idle")
    view.release()


def test_thousand_locks_do_not_hide_a_holder(region: Region):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(Region.attach(region.name))
        with region.write_lock():  # the list is longer than a page, and others change it meanwhile
            wait_until(lambda: seen(region) == (201, "writing"))


def seen(region: Region) -> tuple[int | None, str]:
    info = look(region.name)
    return info.attachments, info.state


# ---- other users and namespaces ----------------------------------------------------------------


AS_USER = """
import os, sys
import shm_async
import shm_async._watch.inspection
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
[info] = shm_async.inspect(sys.argv[1])
print(info.layout, info.uid, info.mode, info.attachments, info.state, len(info.holders),
      info.complete, info.problem, sep="|")
"""


@needs("another user")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_another_user_learns_what_the_kernel_lets_it(name: str, mode: int):
    with Region.create(name, 4, mode=mode) as region, region.write_lock():
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, name, str(NOBODY)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": path_of_tests()},
        )
    layout, uid, told, attachments, state, holders, complete, problem = done.stdout.strip().split(
        "|"
    )
    assert (uid, told, attachments, state, holders, complete) == (
        "0",
        str(mode),
        "1",
        "writing",
        "1",
        "False",
    )
    if mode == 0o600:
        assert layout == "None"
        assert os.strerror(errno.EACCES) in problem
    else:
        assert (layout, problem) == ("managed", "None")


ELSEWHERE = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x20000000):  # CLONE_NEWPID
    sys.exit("cannot unshare")
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
from shm_async import Region
with Region.attach(sys.argv[1]) as region, region.write_lock():
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


@needs("a pid namespace")
def test_a_writer_in_another_pid_namespace_is_not_taken_for_dead(region: Region):
    command = [sys.executable, "-c", ELSEWHERE, region.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        info = look(region.name)
        assert info.control is not None
        assert (info.state, info.control["writer_pid"]) == ("writing", 1)
        assert info.holders[0].pid not in (1, None)
        assert info.holders[0].since is not None
        process.communicate(b"\n", timeout=20)
    assert process.returncode == 0


INSIDE = """
import ctypes, os, shm_async, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20020000):  # CLONE_NEWPID | CLONE_NEWNS
    sys.exit("cannot unshare")
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
libc.mount(b"none", b"/", None, 0x44000, None)
assert libc.mount(b"proc", b"/proc", b"proc", 0, None) == 0
[info] = shm_async.inspect(sys.argv[1])
print(info.state, info.attachments, len(info.holders), len(info.processes), info.complete)
"""


DIES_INSIDE = INSIDE.replace(
    "[info]",
    """
region, other = shm_async.Region.attach(sys.argv[1]), shm_async.Region.attach(sys.argv[1])
if os.fork() == 0:
    (hold := region.write_lock()).acquire_blocking()
    os.kill(os.getpid(), 9)
os.wait()
[info]""",
    1,
)


@needs("a pid namespace")
def test_a_death_in_ones_own_pid_namespace_is_certain_there(region: Region, run_python):
    assert run_python(DIES_INSIDE).stdout == "owner died 3 0 1 False\n"


@needs("a pid namespace")
def test_a_writer_that_cannot_be_seen_is_not_taken_for_dead(region: Region, run_python):
    with region.write_lock():
        done = run_python(INSIDE)
    assert (done.stderr, done.stdout) == ("", "None 1 0 0 False\n")
