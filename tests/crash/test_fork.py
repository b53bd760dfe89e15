"""Fork and exec: a child holds nothing, and its parent's locks are out of its reach."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator

import anyio
import pytest
from cohorts import queued
from forks import aside, check, in_child, see_end_of, start_child, status_of, try_both_ways
from patient import HOWS, hold, wait
from programs import path_of_tests
from rivals import Rival, blocked_in_flock
from traces import our_descriptors, our_threads
from waits import wait_until

from shm_async import Hold, Region, WouldBlockError


@pytest.fixture(params=["managed", "raw", "system-v"])
def region(request: pytest.FixtureRequest, name: str) -> Iterator[Region]:
    """A region of eight uint64, of each kind that locks or marks in its own way."""
    keyed = request.param == "system-v"
    layout = "raw" if request.param == "raw" else "managed"
    with Region.create(None if keyed else name, 8, dtype="uint64", layout=layout) as region:
        yield region
        if keyed:
            region.unlink()


@pytest.fixture
def rival(region: Region) -> Iterator[Rival]:
    rival = Rival(region.name if region.key is None else f"shm_async.sysv.{region.key:08x}")
    yield rival
    rival.close()


@pytest.fixture(params=HOWS)
def how(request: pytest.FixtureRequest) -> str:
    """A way to take a lock: `with`, or `async with` in one of the loops."""
    return request.param


def test_a_child_does_not_hold_its_parents_lock(region: Region, rival: Rival, fork):
    with region.write_lock():
        in_child(lambda: check(try_both_ways(region) == [False, False]), fork=fork)
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


@pytest.mark.parametrize("kind", ["read", "write"])
def test_nothing_that_a_child_does_reaches_its_parents_hold(
    region: Region, rival: Rival, fork, how: str, kind: str
):
    def inside(held: Hold) -> None:
        def release() -> None:
            with contextlib.suppress(RuntimeError):  # it may be told that it holds nothing
                held.release()

        def convert() -> None:
            with contextlib.suppress(RuntimeError, WouldBlockError):
                held.downgrade() if kind == "write" else held.upgrade_nowait()

        def crash() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        deeds = {
            int: 0,  # nothing: it just ends
            release: 0,
            convert: 0,
            region.close: 0,
            lambda: aside(lambda: try_both_ways(region)): 0,
            crash: -signal.SIGKILL,
        }
        for deed, status in deeds.items():
            generation = region.generation
            assert status_of(start_child(deed, fork=fork)) == status, deed
            assert rival.do("try-exclusive") == "busy", deed
            if kind == "write":
                assert rival.do("try-shared") == "busy", deed
            assert region.generation == generation, deed

    hold(region, how, kind, inside)
    assert rival.do("try-exclusive") == "done"


def give_up_every_way(region: Region) -> None:
    for how in HOWS:
        aside(lambda how=how: check(wait(region, how, 0.01) == "gave up"))


def add_every_way(region: Region) -> None:
    """Wait for the lock, one way after the other, and count."""

    def add(held: Hold) -> None:
        held.view[0] += 1

    for how in HOWS:
        aside(lambda how=how: hold(region, how, "write", add))


def child_that_waits(region: Region, fork: Callable[[], int]) -> int:
    """A child that has given up every way, and now adds every way, once it is granted: its pid."""

    def work() -> None:
        assert our_threads() == set()
        give_up_every_way(region)
        os.write(to_parent, b"x")
        add_every_way(region)

    from_child, to_parent = os.pipe()
    pid = start_child(work, fork=fork)
    os.close(to_parent)
    assert os.read(from_child, 1) == b"x"
    os.close(from_child)
    return pid


def test_a_child_waits_with_means_of_its_own_until_its_parent_lets_go(
    region: Region, rival: Rival, fork, how: str
):
    """The parent has a waiting thread, as it had to wait; the child must make another."""
    children = []

    def unlock() -> None:
        wait_until(lambda: blocked_in_flock(os.getpid()))
        rival.do("unlock")

    def inside(_held: Hold) -> None:
        see_end_of(helper)  # Python cannot bear a fork in C beside another thread of its own
        children.append(child_that_waits(region, fork))
        wait_until(lambda: blocked_in_flock(children[0]))

    rival.do("exclusive")
    helper = threading.Thread(target=unlock)
    helper.start()
    hold(region, how, "write", inside)
    assert status_of(children[0]) == 0
    assert region.buffer[0] == len(HOWS)


def test_a_fork_while_another_thread_holds_is_fine_in_both(region: Region, rival: Rival, how: str):
    def inside(_held: Hold) -> None:
        aside(lambda: in_child(lambda: give_up_every_way(region)))
        aside(lambda: in_child(region.close))
        assert rival.do("try-shared") == "busy"

    hold(region, how, "write", inside)
    assert rival.do("try-exclusive") == "done"


def test_a_fork_while_another_thread_waits_is_fine_in_both(region: Region, rival: Rival, how: str):
    outcome: list[str] = []
    rival.do("exclusive")
    waiter = threading.Thread(target=lambda: outcome.append(wait(region, how)))
    waiter.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    child = child_that_waits(region, os.fork)
    assert outcome == []
    rival.do("unlock")
    waiter.join(10)
    assert (outcome, status_of(child)) == (["granted"], 0)
    assert region.buffer[0] == len(HOWS)


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
import ast, os, signal, sys
from patient import hold
from shm_async import Region
region = Region.attach(ast.literal_eval(sys.argv[1]))
def inside(_held):
    if os.fork() == 0:
        os.close(1)
        signal.pause()
    print("forked", flush=True)
    signal.pause()
hold(region, sys.argv[2], "write", inside)
"""


def test_a_child_does_not_keep_its_dead_parents_lock(region: Region, how: str):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, repr(region.key or region.name), how],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path_of_tests()},
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
        while not blocked_in_flock(os.getpid()):
            await anyio.sleep(0.001)
        before = eventfds()
        in_child(lambda: check((eventfds(), queued(region)) == (before - 1, 0)))
        rival.do("unlock")
    assert region.buffer[0] == 1


def eventfds() -> int:
    """How many eventfds are open: ours, and libuv's own."""
    return sum("eventfd" in target for target in our_descriptors().values())


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


@pytest.mark.parametrize("region", ["managed"], indirect=True)
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
        subprocess.run(
            [sys.executable, file.name, region.name, method],
            check=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": path_of_tests()},
        )
    assert region.buffer[0] == 300
