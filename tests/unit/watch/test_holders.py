"""holders(): which processes, threads and tasks have the lock, and since when."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from holding import COMMAND, kinds, me
from waits import wait_until

from shm_async import Holder, Region, RegionClosedError
from shm_async._memory import proclocks

# ---- who holds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["managed", "raw", "sized"])
def test_nobody_holds_a_free_lock(name: str, layout):
    with Region.create(name, 8, layout=layout) as region:
        assert region.holders() == ()
        with region.write_lock():
            pass
        assert region.holders() == ()


def test_a_thread_that_writes_is_named_with_the_time_that_it_has_written(region: Region):
    before = time.monotonic()
    with region.write_lock():
        (found,) = region.holders()
        after = time.monotonic()
    assert (found.pid, found.command, found.kind) == (os.getpid(), COMMAND, "write")
    assert not found.waiting
    assert found.since is not None
    assert 0 <= found.since <= after - before
    assert region.holders() == ()


def test_the_time_grows_and_begins_anew_with_the_next_hold(region: Region):
    with region.write_lock():
        (first,) = region.holders()
        wait_until(lambda: region.holders()[0].since > first.since + 0.02)
    began = time.monotonic()
    with region.write_lock():
        (again,) = region.holders()
        assert again.since <= time.monotonic() - began


def test_a_reader_is_named_and_its_time_is_not_known(region: Region):
    with region.read_lock():
        assert region.holders() == (Holder(os.getpid(), COMMAND, "read", False, None),)


def test_each_thread_that_reads_is_one(region: Region):
    with region.read_lock(), region.read_lock():
        assert kinds(region) == [(os.getpid(), "read", False)] * 2


async def test_a_task_is_named_and_all_readers_of_its_loop_are_one(region: Region):
    async with region.write_lock():
        (found,) = region.holders()
        assert (found.pid, found.kind, found.waiting) == (os.getpid(), "write", False)
        assert found.since is not None
    async with region.read_lock(), region.read_lock():
        assert kinds(region) == [(os.getpid(), "read", False)]


async def test_an_upgraded_reader_has_written_since_then(region: Region):
    hold = region.read_lock()
    async with hold:
        await hold.upgrade()
        assert me(region)[0].kind == "write"
        assert me(region)[0].since is not None
        hold.downgrade()
        assert me(region) == [Holder(os.getpid(), COMMAND, "read", False, None)]


async def test_a_task_that_was_handed_the_lock_has_written_since_then(region: Region):
    seen: list[tuple[float, float]] = []  # for how long it has written; the time afterwards
    inside = anyio.Event()

    async def write(wait: bool) -> None:
        async with region.write_lock():
            inside.set()
            if wait:
                await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.05)
            since = region.holders()[0].since
            assert since is not None
            seen.append((since, time.monotonic()))

    async with anyio.create_task_group() as group:
        group.start_soon(write, True)
        await inside.wait()
        group.start_soon(write, False)
    (first, left), (second, later) = seen
    assert first >= 0.05
    assert second <= later - left


def test_the_block_of_a_transaction_has_written_nothing_yet(region: Region):
    with region.transaction():
        assert region.holders() == (Holder(os.getpid(), COMMAND, "write", False, None),)


def test_another_process_is_named(region: Region):
    told, tell = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with region.write_lock():
                os.write(tell, b".")
                os.read(wait, 1)
        finally:
            os._exit(0)
    assert os.read(told, 1) == b"."
    (found,) = region.holders()
    os.write(go, b".")
    os.waitpid(pid, 0)
    for fd in (told, tell, wait, go):
        os.close(fd)
    assert (found.pid, found.command, found.kind) == (pid, COMMAND, "write")
    assert found.since is not None


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock(1)")
@pytest.mark.parametrize(("option", "kind"), [("-x", "write"), ("-s", "read")])
@pytest.mark.parametrize("layout", ["managed", "raw"])
def test_a_program_that_knows_nothing_of_us_is_named(name: str, layout, option: str, kind: str):
    with Region.create(name, 8, layout=layout) as region:
        command = ["flock", option, f"/dev/shm/{name}", "sleep", "60"]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            wait_until(lambda: bool(region.holders()))
            (found,) = region.holders()
            assert found == Holder(process.pid, "flock", kind, False, None)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_readonly_region_can_ask_too(region: Region):
    with Region.attach(region.name, readonly=True) as other, region.write_lock():
        (found,) = other.holders()
        assert found.pid == os.getpid()
        assert found.since is not None


def test_only_this_regions_lock_counts(region: Region, name: str):
    with Region.create(f"{name}-other", 8) as other, other.write_lock():
        other.unlink()
        assert region.holders() == ()
        assert len(other.holders()) == 1  # nor does it need its name


def test_a_child_sees_what_its_parent_holds(region: Region):
    with region.write_lock():
        pid = os.fork()
        if pid == 0:
            os._exit([each.pid for each in region.holders()] != [os.getppid()])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_closed_region_cannot_ask(name: str):
    region = Region.create(name, 1)
    region.close()
    with pytest.raises(RegionClosedError):
        region.holders()


CHURN = """
import fcntl, os, sys
fds = [os.open(sys.argv[1], os.O_RDWR) for _ in range(4)]
print("ready", flush=True)
while True:
    for how in (fcntl.LOCK_SH, fcntl.LOCK_UN):
        for fd in fds:
            fcntl.flock(fd, how)
"""


def test_locks_that_come_and_go_elsewhere_do_not_blur_the_picture(region: Region, name: str):
    with Region.create(f"{name}-other", 1) as other:
        command = [sys.executable, "-S", "-c", CHURN, f"/dev/shm/{other.name}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline() == b"ready\n"
                with region.read_lock():
                    for _ in range(1000):
                        assert kinds(region) == [(os.getpid(), "read", False)]
            finally:
                process.kill()
        other.unlink()


def test_locks_that_end_while_a_long_list_is_read_hide_no_holder(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ours is on the second page, and goes over to the first one between two reads."""
    pieces = []

    def ends_between(descriptor: int, size: int, start: int) -> bytes:
        if start:
            ending.close()
        piece = os.pread(descriptor, size, start)
        pieces.append(piece)
        return piece

    one_cpu = {min(os.sched_getaffinity(0))}  # the kernel lists each CPU's latest lock first
    with contextlib.ExitStack() as staying, contextlib.ExitStack() as ending:
        staying.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, one_cpu)
        for turn, stack in enumerate([staying] * 100 + [ending] * 60):
            if turn == 60:
                staying.enter_context(region.read_lock())
            file = stack.enter_context(open(tmp_path / f"{turn}", "wb"))
            fcntl.flock(file, fcntl.LOCK_SH)
        monkeypatch.setattr(proclocks, "os", SimpleNamespace(pread=ends_between))
        assert kinds(region) == [(os.getpid(), "read", False)]
    assert len(pieces) > 3  # it had to read again


def test_a_region_that_goes_over_to_another_object_while_it_looks_looks_again(
    region: Region, name: str, monkeypatch: pytest.MonkeyPatch
):
    genuine = proclocks.rows_of_host
    looks = []

    def resized(asked: str):
        if not looks:
            region.resize(9)  # by another thread, say
        looks.append(asked)
        return genuine(asked)

    monkeypatch.setattr(proclocks, "rows_of_host", resized)
    with Region.attach(name) as other:
        assert region.holders() == ()
        assert len(looks) == 2
        assert other.holders() == ()


def test_a_region_that_is_closed_while_it_looks_says_so(name: str, monkeypatch: pytest.MonkeyPatch):
    genuine = proclocks.rows_of_host

    def closing(asked: str):
        region.close()
        return genuine(asked)

    monkeypatch.setattr(proclocks, "rows_of_host", closing)
    region = Region.create(name, 8)
    with pytest.raises(RegionClosedError):
        region.holders()


# ---- System V ----------------------------------------------------------------------------------


def test_a_system_v_segments_lock_is_its_companions(sysv_key: int):
    with Region.create(sysv_key, 8) as region:
        assert region.holders() == ()
        with region.write_lock(), Region.attach(sysv_key, readonly=True) as other:
            (found,) = other.holders()
            assert (found.pid, found.kind) == (os.getpid(), "write")
            assert found.since is not None
        region.unlink()


def test_to_ask_makes_no_companion(sysv_key: int):
    companion = f"/dev/shm/shm_async.sysv.{sysv_key:08x}"
    with Region.create(sysv_key, 8, layout="raw") as region:
        assert region.holders() == ()
        assert not os.path.exists(companion)
        with Region.attach(sysv_key) as other, other.read_lock():
            assert kinds(region) == [(os.getpid(), "read", False)]
        region.unlink()
