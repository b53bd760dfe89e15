"""Fork and exec: a child holds nothing, and its parent's locks are out of its reach."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable

import anyio
import pytest
from conftest import Rival, our_descriptors

from shm_async import Region, WouldBlockError


def in_child(work: Callable[[], object], *, fork: Callable[[], int] = os.fork) -> None:
    """Run `work` in a forked child and demand that it returns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: this process has threads
        pid = fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def c_level_fork() -> int:
    """A fork that Python hears nothing of."""
    return ctypes.PyDLL(None).fork()


@pytest.fixture(params=[os.fork, c_level_fork], ids=["os.fork", "C fork"])
def fork(request: pytest.FixtureRequest):
    return request.param


def try_both_ways(region: Region) -> list[bool]:
    """Whether a thread and a task can take the write lock at once."""

    async def task() -> bool:
        try:
            region_hold = region.write_lock()
            region_hold.acquire_nowait()
        except WouldBlockError:
            return False
        region_hold.release()
        return True

    try:
        hold = region.write_lock()
        hold.acquire_nowait()
    except WouldBlockError:
        thread = False
    else:
        hold.release()
        thread = True
    return [thread, asyncio.run(task())]


def test_a_child_does_not_hold_its_parents_lock(region: Region, rival: Rival, fork):
    with region.write_lock():
        in_child(lambda: check(try_both_ways(region) == [False, False]), fork=fork)
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


def check(condition: bool) -> None:
    assert condition


def test_a_child_that_leaves_the_block_releases_nothing(region: Region, rival: Rival, fork):
    """The child runs the end of the parent's `with` block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with region.write_lock():
            generation = region.generation
            pid = fork()
            if pid:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                assert rival.do("try-shared") == "busy"
                assert region.generation == generation
    if pid == 0:
        os._exit(7)
    assert status == 7
    assert rival.do("try-exclusive") == "done"


async def test_a_child_that_leaves_an_async_block_releases_nothing(region: Region, rival: Rival):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        async with region.write_lock():
            pid = os.fork()
            if pid:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                assert rival.do("try-shared") == "busy"
        if pid == 0:
            os._exit(7)
    assert status == 7
    assert rival.do("try-exclusive") == "done"


def test_a_child_works_with_its_inherited_region(region: Region, fork):
    with region.write_lock() as view:
        view[0] = 1

    def work() -> None:
        with region.write_lock() as view:
            view[0] += 1

        async def task() -> None:
            async with region.write_lock() as view:
                view[0] += 1

        asyncio.run(task())
        with region.read_lock() as view:
            assert view[0] == 3

    in_child(work, fork=fork)
    with region.read_lock() as view:
        assert view[0] == 3


def test_parent_and_child_exclude_each_other(region: Region):
    from_child, to_parent = os.pipe()

    def work() -> None:
        with region.write_lock():
            os.write(to_parent, b"in")
            os.read(from_parent, 1)

    from_parent, to_child = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    assert os.read(from_child, 2) == b"in"
    with pytest.raises(WouldBlockError):
        region.read_lock().acquire_nowait()
    os.write(to_child, b"x")
    os.waitpid(pid, 0)
    with region.write_lock():
        pass
    for fd in (from_child, to_parent, from_parent, to_child):
        os.close(fd)


ORPHAN = """
import os, sys, time
from shm_async import Region
region = Region.attach(sys.argv[1])
hold = region.write_lock()
hold.acquire_blocking()
if os.fork() == 0:
    os.close(1)
    time.sleep(30)
print("forked", flush=True)
time.sleep(30)
"""


def test_a_child_does_not_keep_its_dead_parents_lock(region: Region):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, region.name],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "forked\n"
    with pytest.raises(WouldBlockError):
        region.write_lock().acquire_nowait()
    parent.kill()
    parent.wait()
    with region.write_lock(timeout=5, recover=True):
        pass
    os.killpg(parent.pid, signal.SIGKILL)
    parent.stdout.close()


async def test_a_fork_while_a_task_waits_is_fine_in_both(region: Region, rival: Rival):
    async def wait() -> None:
        async with region.write_lock() as view:
            view[0] += 1

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.02)
        before = eventfds()
        in_child(lambda: check((eventfds(), waiting(region)) == (before - 1, 0)))
        rival.do("unlock")
    assert region.buffer[0] == 1


def eventfds() -> int:
    """How many eventfds are open: ours, and libuv's own."""
    return sum("eventfd" in target for target in our_descriptors().values())


def waiting(region: Region) -> int:
    return sum(len(cohort.queue) for cohort in region._cohorts.values())


def test_a_child_closes_the_region_without_harm(region: Region, rival: Rival, fork):
    with region.read_lock():
        in_child(region.close, fork=fork)
        assert rival.do("try-exclusive") == "busy"
    with region.write_lock() as view:
        view[0] = 1


LIST = """
import os
for fd in os.listdir("/proc/self/fd"):
    if os.path.islink(f"/proc/self/fd/{fd}"):
        print(os.readlink(f"/proc/self/fd/{fd}"))
"""


def test_exec_keeps_nothing_open(region: Region, rival: Rival):
    with region.write_lock():
        listing = subprocess.run(
            [sys.executable, "-c", LIST],
            capture_output=True,
            text=True,
            check=True,
            close_fds=False,
        ).stdout
        assert "/dev/shm" not in listing
        assert "eventfd" not in listing
    assert rival.do("try-exclusive") == "done"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_attach_by_name(region: Region, run_python, method: str):
    program = """
import multiprocessing, sys
import shm_async

def increment(name):
    with shm_async.Region.attach(name) as region:
        for _ in range(100):
            with region.write_lock() as view:
                view[0] += 1

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(3) as pool:
        pool.map(increment, [sys.argv[1]] * 3)
"""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(program)
        file.flush()
        subprocess.run([sys.executable, file.name, region.name, method], check=True, timeout=30)
    assert region.buffer[0] == 300
