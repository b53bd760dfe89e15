"""A program that closes descriptors which it does not know of, and opens its own in their place.

Nothing of its own is ever locked, moved or closed, nobody else gets in, and the region goes on.
"""

import errno
import os
import subprocess
from collections.abc import Callable

import anyio
import pytest
from traces import our_descriptors

from shm_async import Region

Run = Callable[..., "subprocess.CompletedProcess[str]"]


#: `foreign` opens what gets the numbers, `check` proves that nobody has touched it.
HEAD = """
import asyncio, errno, fcntl, mmap, os, subprocess, sys, tempfile, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, from 3.12 on
import shm_async
from shm_async import LockTimeoutError, Region

name, kind = sys.argv[1:3]
SIZE = {SIZE}

def foreign():
    os.closerange(3, 256)
    if kind == "none":
        return []
    if kind == "eventfds":
        return [os.eventfd(7, os.EFD_NONBLOCK) for _ in range(12)]
    if kind == "of the same size":
        found = []
        for number in range(12):
            path = "/dev/shm/" + name + "-" + str(number)
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            os.unlink(path)
            os.truncate(fd, SIZE)
            found.append(fd)
        return found
    found = []
    for _ in range(12):  # two descriptors of each file
        fd, path = tempfile.mkstemp()
        os.unlink(path)
        os.truncate(fd, 20000)
        found.append(os.dup(fd))
    return found

def check(found):
    for fd in found:
        if kind == "eventfds":
            assert os.eventfd_read(fd) == 7, fd
            continue
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0, fd
        assert os.write(fd, b"x") == 1, fd
        again = os.open("/proc/self/fd/" + str(fd), os.O_RDWR)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)

OTHER = '''
import sys
from shm_async import LockTimeoutError, Region
where = int(sys.argv[1]) if sys.argv[1].isdigit() else sys.argv[1]
with Region.attach(where, layout=sys.argv[2], on_owner_death="ignore") as region:
    try:
        with region.write_lock(timeout=0.2):
            print("inside")
    except LockTimeoutError:
        print("kept out")
'''

def other(where, layout="managed"):
    arguments = [sys.executable, "-c", OTHER, str(where), layout]
    return subprocess.run(arguments, stdout=subprocess.PIPE, text=True).stdout.strip()
"""


FOREIGN = ["files", "of the same size", "eventfds", "none"]


pytestmark = [pytest.mark.long, pytest.mark.parametrize("kind", FOREIGN)]


@pytest.fixture
def prove(run_python: Run, kind: str):
    """Run a program after HEAD, which must end well."""

    def run(program: str, *arguments: str, size: int = 8192) -> str:
        result = run_python(HEAD.replace("{SIZE}", str(size)) + program, kind, *arguments)
        assert result.stderr == ""
        assert result.returncode == 0
        return result.stdout

    return run


@pytest.mark.parametrize("layout", ["managed", "raw", "sized"])
def test_a_thread_locks_the_object_again_and_nothing_else(prove, name: str, layout: str):
    size = {"managed": 8192, "raw": 64, "sized": 72}[layout]
    program = """
layout = sys.argv[3]
region = Region.create(name, 64, layout=layout)
with region.write_lock():
    pass
found = foreign()
for lock in region.write_lock, region.read_lock, region.write_lock:
    with lock():
        print(other(name, layout))
print(other(name, layout), region.statistics().writes)
region.close()
check(found)
"""
    assert prove(program, layout, size=size).split("\n")[:4] == ["kept out"] * 3 + ["inside 3"]


def test_a_lock_on_a_companion_is_found_again(prove, sysv_key: int):
    program = """
key = int(sys.argv[3])
region = Region.create(key, 64)
with region.write_lock():
    pass
found = foreign()
with region.write_lock():
    print(other(key))
print(other(key))
region.unlink()
region.close()
check(found)
"""
    assert prove(program, str(sysv_key), size=0).splitlines() == ["kept out", "inside"]


@pytest.mark.parametrize("uses", ["one loop", "two loops"])
def test_an_event_loop_that_begins_afterwards_locks_the_object(prove, uses: str):
    program = """
region = Region.create(name, 64)
async def lock():
    async with region.write_lock():
        return other(name)
if sys.argv[3] == "two loops":
    print(asyncio.run(lock()))
else:
    print("kept out")
found = foreign()
print(asyncio.run(lock()))
print(other(name))
region.close()
check(found)
"""
    assert prove(program, uses).splitlines() == ["kept out", "kept out", "inside"]


@pytest.mark.parametrize("leaves", ["nothing", "a waiting thread", "a watcher"])
def test_what_an_ended_loop_left_closes_nothing_of_the_programs(prove, leaves: str):
    program = """
import threading
region = Region.create(name, 64)
async def contend():
    with Region.attach(name) as rival:
        held, done = threading.Event(), threading.Event()
        def hold():
            with rival.write_lock():
                held.set()
                done.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        asyncio.get_running_loop().call_later(0.02, done.set)
        async with region.write_lock():
            pass
        thread.join()
async def watch():
    try:
        await asyncio.wait_for(region.wait_changed(), 0.02)
    except asyncio.TimeoutError:
        pass
work = {"a waiting thread": contend, "a watcher": watch}.get(sys.argv[3])
loop = asyncio.new_event_loop()
if work:
    loop.run_until_complete(work())
found = foreign()
if os.fork() == 0:
    os._exit(0)  # its own handlers have closed what it inherited
print(os.wait()[1])
async def lock():
    async with region.write_lock():
        return other(name)
print(asyncio.run(lock()))
region.close()
check(found)
sys.stdout.flush()
os._exit(0)  # the loop's own descriptors are gone, too
"""
    assert prove(program, leaves).splitlines() == ["0", "kept out"]


def test_a_hold_that_lost_its_lock_says_so_and_frees_nobody_elses(prove):
    program = """
region = Region.create(name, 64)
try:
    with region.write_lock() as view:
        found = foreign()
        for fd in found:
            if kind != "eventfds":
                fcntl.flock(fd, fcntl.LOCK_EX)
except OSError as error:
    print(error.errno == errno.EBADFD, "closed by this program" in str(error))
for fd in found:
    if kind == "eventfds":
        continue
    again = os.open("/proc/self/fd/" + str(fd), os.O_RDWR)
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("freed", fd)
    except BlockingIOError:
        fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(again)
check(found)
try:
    with region.read_lock():
        pass
except shm_async.OwnerDiedError:
    print("half-written")
with region.write_lock(recover=True):
    print(other(name))
region.close()
"""
    assert prove(program).splitlines() == ["True True", "half-written", "kept out"]


def test_an_object_without_a_name_is_an_error_that_says_what_happened(prove):
    program = """
import shm_async
region = Region.create(name, 64)
with region.write_lock():
    pass
os.unlink("/dev/shm/" + name)
found = foreign()
async def lock():
    async with region.write_lock():
        pass
def lock_here():
    with region.write_lock():
        pass
for use in lock_here, lambda: asyncio.run(lock()), region.snapshot, region.holders:
    try:
        use()
    except OSError as error:
        print(error.errno == errno.EBADFD, "closed by this program" in str(error))
region.close()
check(found)
"""
    assert prove(program).splitlines() == ["True True"] * 4


def test_everything_else_finds_the_object_again(prove):
    program = """
region = Region.create(name, 64)
with region.write_lock() as view:
    view[0] = 5
region.snapshot()
found = foreign()
print(region.snapshot()[0], region.generation, region.holders(), region.linked)
region.resize(128)
print(len(region), region.snapshot()[0])
check(found)
found = foreign()
with Region.attach(name) as again:
    print(again.snapshot()[0])
region.unlink()
region.close()
check(found)
"""
    assert prove(program).splitlines() == ["5 2 () True", "128 5", "5"]


def test_what_filenos_tells_of_can_be_kept_open(prove):
    program = """
region = Region.create(name, 64)
with region.write_lock():
    pass
known = region.filenos()
def close_others():
    for fd in range(3, 256):
        if fd not in known:
            try:
                os.close(fd)
            except OSError:
                pass
with region.write_lock():
    close_others()
    print(other(name))
print(region.filenos() == known, other(name))
region.close()
"""
    assert prove(program).splitlines() == ["kept out", "True inside"]


async def test_filenos_has_every_descriptor_that_is_opened(region: Region, kind: str):
    def ours() -> list[int]:
        return sorted(int(fd) for fd in our_descriptors())

    others = set(ours()) - set(region.filenos())
    with region.read_lock():
        pass
    rival = Region.attach(region.name)
    with rival, rival.write_lock(), anyio.move_on_after(0.02):
        await region.write_lock().acquire()
    with anyio.move_on_after(0.02):
        await region.wait_changed()
    assert len(region.filenos()) >= 5
    assert set(region.filenos()) == set(ours()) - others


def test_a_closed_region_has_none(name: str, kind: str):
    region = Region.create(name, 4)
    region.close()
    with pytest.raises(ValueError, match="closed"):
        region.filenos()
    assert errno.EBADFD
    os.unlink(f"/dev/shm/{name}")
