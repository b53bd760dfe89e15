"""Other users of the host: what a region's mode lets them do, and what it does not."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
from privileges import needs

from shm_async import LockTimeoutError, Region, RegionFormatError, WouldBlockError

ALICE, BOB = 12345, 12346  # nobody has these numbers

pytestmark = needs("another user")


def as_user(uid: int, act: Callable[[], object]) -> int:
    """Have it done by another user, in a process of its own: what `act` returns, or 99."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            code = int(act() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(act: Callable[[], object], kind: type[Exception] = PermissionError) -> int:
    """0 if it is refused."""
    try:
        act()
    except kind:
        return 0
    return 1


HOLDER = """
import fcntl, os, struct, sys, time
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]), os.setgid(uid), os.setuid(uid)
fd = os.open(path, os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def held_by(uid: int, name: str, program: str = HOLDER) -> Iterator[subprocess.Popen[bytes]]:
    """Another user who can only read has the exclusive flock, and will never let go."""
    command = [sys.executable, "-S", "-c", program, f"/dev/shm/{name}", str(uid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


# ---- the mode -----------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
@pytest.mark.parametrize("make", [Region.create, Region.open])
def test_by_default_nobody_else_may_do_anything(name: str, umask: int, make):
    old = os.umask(umask)
    try:
        region = make(name, 1)
    finally:
        os.umask(old)
    with region:
        assert stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) == 0o600


def test_by_default_nobody_else_may_use_a_key_or_its_lock(sysv_key: int):
    old = os.umask(0)
    try:
        region = Region.create(sysv_key, 1)
    finally:
        os.umask(old)
    with region:
        companion = f"/dev/shm/shm_async.sysv.{sysv_key:08x}"
        assert stat.S_IMODE(os.stat(companion).st_mode) == 0o600
        for readonly in (False, True):
            attach = lambda: Region.attach(sysv_key, owner="any", readonly=readonly)  # noqa: B023, E731
            assert as_user(ALICE, lambda: refused(attach)) == 0  # noqa: B023
        region.unlink()


def test_without_permission_nobody_attaches_or_locks(region: Region, name: str):
    path = f"/dev/shm/{name}"
    assert as_user(ALICE, lambda: refused(lambda: os.open(path, os.O_RDONLY))) == 0
    for readonly in (False, True):
        attach = lambda: Region.attach(name, owner="any", readonly=readonly)  # noqa: B023, E731
        assert as_user(ALICE, lambda: refused(attach)) == 0  # noqa: B023


def test_who_may_only_read_reads_and_cannot_store(name: str):
    with Region.create(name, 8, mode=0o644) as region:
        region.buffer[0] = 7

        def look() -> bool:
            with Region.attach(name, readonly=True, owner="any") as mine:
                with mine.read_lock() as view:
                    assert view[0] == 7
                    assert refused(lambda: view.__setitem__(0, 8), TypeError) == 0
                assert refused(mine.write_lock) == 0
                assert refused(mine.transaction) == 0
            return refused(lambda: os.open(f"/dev/shm/{name}", os.O_RDWR)) != 0

        assert as_user(ALICE, look) == 0


def test_who_may_write_does_all_that_we_do_but_remove_the_name(name: str):
    with Region.create(name, 8, mode=0o666) as region:

        def write() -> bool:
            with Region.attach(name, owner="any") as mine:
                with mine.write_lock() as view:
                    view[0] = 9
                return refused(mine.unlink) != 0  # the sticky bit of /dev/shm

        assert as_user(ALICE, write) == 0
        assert region.buffer[0] == 9
        assert region.linked


# ---- trust --------------------------------------------------------------------------


def test_a_name_that_another_user_took_first_is_not_trusted(name: str):
    def squat() -> None:
        Region.create(name, 8, mode=0o666).close()

    assert as_user(ALICE, squat) == 0
    for attach in (lambda: Region.attach(name), lambda: Region.open(name, 8)):
        with pytest.raises(PermissionError, match=f"user {ALICE}.*owner='any'"):
            attach()
        assert as_user(BOB, lambda: refused(attach)) == 0  # noqa: B023
    with Region.attach(name, owner="any") as region, region.write_lock():
        pass


def test_roots_regions_are_trusted_by_all(name: str):
    with Region.create(name, 8, mode=0o666):
        assert as_user(ALICE, lambda: Region.attach(name).close()) == 0


@needs("a device")
@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_device_is_refused_and_not_opened(name: str, kind: int, readonly: bool):
    os.mknod(f"/dev/shm/{name}", kind | 0o666, os.makedev(1, 5))
    for attach in (lambda: Region.attach(name, readonly=readonly), lambda: Region.open(name, 1)):
        with pytest.raises((RegionFormatError, PermissionError)):  # mounted with nodev
            attach()


# ---- the lock is for everybody who can open -------------------------------------------


def test_who_may_only_read_can_keep_everybody_out(name: str):
    """flock(2) asks for no permission but to open: that is the kernel's rule."""
    with Region.create(name, 8, mode=0o644) as region, held_by(ALICE, name) as process:
        (found,) = region.holders()
        assert (found.pid, found.kind, found.waiting) == (process.pid, "write", False)
        for hold in (region.read_lock(), region.write_lock(), region.write_lock(recover=True)):
            with pytest.raises(WouldBlockError):
                hold.acquire_nowait()


def test_a_thread_waits_for_such_a_one_until_its_deadline(name: str):
    with Region.create(name, 8, mode=0o644) as region, held_by(ALICE, name):
        for lock in (region.read_lock, region.write_lock, region.transaction):
            with pytest.raises(LockTimeoutError), lock(timeout=0.05):
                pass
        assert region.snapshot(timeout=0.05) == bytes(8)  # takes no lock
        assert len(region.holders()) == 1  # and nobody waits any more


async def test_a_task_waits_for_such_a_one_until_its_deadline(name: str):
    with Region.create(name, 8, mode=0o644) as region, held_by(ALICE, name) as process:
        for lock in (region.read_lock, region.write_lock, region.transaction):
            with pytest.raises(TimeoutError), anyio.fail_after(0.05):
                async with lock():
                    pass
        with anyio.fail_after(10):
            while len(region.holders()) > 1:
                await anyio.sleep(0.001)
        async with anyio.create_task_group() as group:

            async def write() -> None:
                async with region.write_lock() as view:
                    view[0] = 1

            group.start_soon(write)
            with anyio.fail_after(10):
                while not any(each.waiting for each in region.holders()):
                    await anyio.sleep(0.001)
            process.kill()  # who can see it can end it
        assert region.buffer[0] == 1


SITTER = HOLDER.replace(
    "fcntl.flock(fd, fcntl.LOCK_EX)",
    "fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', 0, 0, 1 << 62, 1, 0))",
)  # F_OFD_SETLK, F_RDLCK: all that a reader may


@pytest.mark.parametrize("layout", ["managed", "raw"])
def test_who_may_only_read_can_sit_at_the_gate_and_costs_time(name: str, layout):
    with Region.create(name, 8, mode=0o644, layout=layout) as region:
        with held_by(ALICE, name, SITTER):
            for lock in (region.read_lock, region.write_lock, region.transaction):
                with lock(timeout=5):
                    pass
            if layout == "raw":  # there is no hint: the gate itself is asked
                with pytest.raises(WouldBlockError):
                    region.write_lock().acquire_nowait()
        hold = region.write_lock()
        hold.acquire_nowait()
        hold.release()


def test_without_read_permission_nobody_is_kept_out(region: Region, name: str):
    with pytest.raises(AssertionError), held_by(ALICE, name):
        pytest.fail("another user has the lock")
    with region.write_lock(timeout=1):
        pass


def test_one_user_sees_another_ones_hold(name: str):
    with Region.create(name, 8, mode=0o644) as region, region.write_lock():
        pid = os.getpid()

        def look() -> bool:
            with Region.attach(name, readonly=True) as mine:
                (found,) = mine.holders()
                return (found.pid, found.command) != (pid, None) and found.pid != pid

        assert as_user(BOB, look) == 0


def test_links_to_a_region_are_not_followed(region: Region, name: str):
    link = f"{name}-link"
    os.symlink(f"/dev/shm/{name}", f"/dev/shm/{link}")
    try:
        with pytest.raises(RegionFormatError, match="a symbolic link"):
            Region.attach(link)
    finally:
        os.unlink(f"/dev/shm/{link}")


def test_a_second_name_is_refused_under_either(region: Region, name: str):
    os.link(f"/dev/shm/{name}", f"/dev/shm/{name}-second")
    try:
        for each in (name, f"{name}-second"):
            with pytest.raises(RegionFormatError, match="2 hard links"):
                Region.attach(each)
    finally:
        os.unlink(f"/dev/shm/{name}-second")
    Region.attach(name).close()
    with region.write_lock():
        fd = os.open(f"/dev/shm/{name}", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(fd)
