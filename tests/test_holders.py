import contextlib
import errno
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from conftest import Rival, wait_until, writer_dies

from shm_async import Holder, LockTimeoutError, Region, RegionClosedError, control, holders

COMMAND = Path("/proc/self/comm").read_text().rstrip("\n")


def me(region: Region) -> list[Holder]:
    return [each for each in region.holders() if each.pid == os.getpid()]


def kinds(region: Region) -> list[tuple[int | None, str | None, bool]]:
    return [(each.pid, each.kind, each.waiting) for each in region.holders()]


def waiting(region: Region) -> list[tuple[int | None, str | None]]:
    return [(each.pid, each.kind) for each in region.holders() if each.waiting]


# ---- who holds ---------------------------------------------------------------


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
        wait_until(lambda: region.holders()[0].since > 0.02)
        (second,) = region.holders()
    with region.write_lock():
        (third,) = region.holders()
    assert first.since < 0.02 < second.since
    assert third.since < second.since


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
    seen: list[float | None] = []
    inside = anyio.Event()

    async def write(wait: bool) -> None:
        async with region.write_lock():
            inside.set()
            if wait:
                await anyio.wait_all_tasks_blocked()
                await anyio.sleep(0.05)
            seen.append(region.holders()[0].since)

    async with anyio.create_task_group() as group:
        group.start_soon(write, True)
        await inside.wait()
        group.start_soon(write, False)
    assert seen[0] is not None
    assert seen[1] is not None
    assert seen[0] >= 0.05 > seen[1]


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


def test_a_region_that_goes_over_to_another_object_while_it_looks_looks_again(
    region: Region, name: str, monkeypatch: pytest.MonkeyPatch
):
    genuine = holders._rows
    looks = []

    def resized(asked: str):
        if not looks:
            region.resize(9)  # by another thread, say
        looks.append(asked)
        return genuine(asked)

    monkeypatch.setattr(holders, "_rows", resized)
    with Region.attach(name) as other:
        assert region.holders() == ()
        assert len(looks) == 2
        assert other.holders() == ()


def test_a_region_that_is_closed_while_it_looks_says_so(name: str, monkeypatch: pytest.MonkeyPatch):
    genuine = holders._rows

    def closing(asked: str):
        region.close()
        return genuine(asked)

    monkeypatch.setattr(holders, "_rows", closing)
    region = Region.create(name, 8)
    with pytest.raises(RegionClosedError):
        region.holders()


# ---- who waits -----------------------------------------------------------------


@contextlib.contextmanager
def blocked(region: Region, *, exclusive: bool) -> Iterator[threading.Thread]:
    """A thread that waits for the lock until the block ends."""

    def wait() -> None:
        with region.write_lock() if exclusive else region.read_lock():
            pass

    with contextlib.ExitStack() as stack:
        before = len(waiting(region))
        thread = threading.Thread(target=wait)
        thread.start()
        stack.callback(thread.join)
        wait_until(lambda: len(waiting(region)) > before)
        yield thread


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_thread_that_waits_is_named(region: Region, rival: Rival, exclusive: bool):
    rival.do("exclusive")
    with blocked(region, exclusive=exclusive):
        kind = "write" if exclusive else "read"
        holding, wanting = region.holders()
        assert (holding.pid, holding.kind, holding.waiting) == (rival.process.pid, "write", False)
        assert wanting == Holder(os.getpid(), COMMAND, kind, True, None)
        rival.do("unlock")
    assert region.holders() == ()


async def test_a_task_that_waits_is_named(region: Region, rival: Rival):
    rival.do("shared")

    async def write() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        with anyio.fail_after(10):
            while waiting(region) != [(os.getpid(), "write")]:
                await anyio.sleep(0.001)
        rival.do("unlock")


def test_a_program_that_knows_nothing_of_us_waits_and_is_named(region: Region, rival: Rival):
    with region.read_lock():
        rival.send("exclusive")
        wait_until(lambda: waiting(region) == [(rival.process.pid, "write")])
    assert rival.finish() == "done"
    assert kinds(region) == [(rival.process.pid, "write", False)]


def test_who_queues_at_the_gate_is_there_and_nameless(region: Region, rival: Rival):
    rival.do("exclusive")
    with blocked(region, exclusive=True), blocked(region, exclusive=False):
        assert waiting(region) == [(os.getpid(), "write"), (None, None)]
        assert region.holders()[-1] == Holder(None, None, None, True, None)
        rival.do("unlock")


def test_a_readonly_reader_at_the_gate_can_want_only_one_thing(region: Region, rival: Rival):
    rival.do("exclusive")
    rival.do("gate")
    with Region.attach(region.name, readonly=True) as other, blocked(other, exclusive=False):
        assert waiting(region) == [(None, "read")]
        rival.do("leave")
        rival.do("unlock")


def test_other_locks_of_bytes_are_no_waiting_for_ours(region: Region, name: str):
    with open(f"/dev/shm/{name}", "r+b") as first, open(f"/dev/shm/{name}", "r+b") as second:
        ours = struct.pack("hhqqi4x", 1, 0, 7, 1, 0)

        fcntl.fcntl(first, 37, ours)  # F_OFD_SETLK
        thread = threading.Thread(target=fcntl.fcntl, args=(second, 38, ours))  # F_OFD_SETLKW
        thread.start()
        wait_until(lambda: any("->" in row for row in Path("/proc/locks").read_text().split()))
        assert region.holders() == ()
        fcntl.fcntl(first, 37, struct.pack("hhqqi4x", 2, 0, 7, 1, 0))
        thread.join()


def test_a_timed_out_wait_says_where_to_look(region: Region, rival: Rival):
    rival.do("exclusive")
    with pytest.raises(LockTimeoutError, match=r"region\.holders\(\) tells who holds it"):
        region.read_lock(timeout=0.01).acquire_blocking()


# ---- System V --------------------------------------------------------------------


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


# ---- what is not known -------------------------------------------------------------


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
    genuine = holders._rows

    def slow(name: str):
        rows = genuine(name)
        scribble(region, 128, "Q", 17)
        return rows

    with region.write_lock():
        monkeypatch.setattr(holders, "_rows", slow)
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
        monkeypatch.setattr(holders, "LOCKS", str(path))

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
    monkeypatch.setattr(holders, "LOCKS", "/proc/nowhere")
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a pid namespace")
def test_another_pid_namespace_does_not_see_us_and_is_kept_out_all_the_same(
    region: Region, run_python
):
    with region.write_lock():
        done = run_python(HIDDEN)
    assert (done.stderr, done.stdout) == ("", "()\nbusy\n")
