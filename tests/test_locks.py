"""One contract for the lock, whoever holds it: a task, a thread, another region, a process."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from conftest import Rival, wait_until

from shm_async import Hold, LockTimeoutError, Region, WouldBlockError

KINDS = ["read", "write"]


def lock(region: Region, kind: str, **options: object) -> Hold:
    return region.write_lock(**options) if kind == "write" else region.read_lock(**options)


# ---- holders: each holds the lock of that kind while its block runs ---------------------


@contextlib.asynccontextmanager
async def task(region: Region, kind: str) -> AsyncIterator[None]:
    """Another task of this loop."""
    inside, leave = anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with lock(region, kind):
            inside.set()
            await leave.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await inside.wait()
        yield
        leave.set()


@contextlib.asynccontextmanager
async def thread(region: Region, kind: str) -> AsyncIterator[None]:
    """A thread that holds it by `with`."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(region, kind):
            inside.set()
            leave.wait(30)

    worker = threading.Thread(target=hold)
    worker.start()
    inside.wait(10)
    try:
        yield
    finally:
        leave.set()
        worker.join()


@contextlib.asynccontextmanager
async def other_loop(region: Region, kind: str) -> AsyncIterator[None]:
    """A task of an event loop in another thread."""
    inside, leave = threading.Event(), threading.Event()

    async def hold() -> None:
        async with lock(region, kind):
            inside.set()
            leave.wait(30)

    worker = threading.Thread(target=anyio.run, args=[hold])
    worker.start()
    inside.wait(10)
    try:
        yield
    finally:
        leave.set()
        worker.join()


@contextlib.asynccontextmanager
async def other_region(region: Region, kind: str) -> AsyncIterator[None]:
    """A second Region object of this process, in this loop."""
    with Region.attach(region.name) as second:
        async with lock(second, kind):
            yield


@contextlib.asynccontextmanager
async def process(region: Region, kind: str) -> AsyncIterator[None]:
    """A foreign process that uses flock(2)."""
    rival = Rival(region.name)
    assert rival.do("exclusive" if kind == "write" else "shared") == "done"
    try:
        yield
    finally:
        rival.do("unlock")
        rival.close()


HOLDERS = [task, thread, other_loop, other_region, process]


@pytest.fixture(params=HOLDERS, ids=lambda holder: holder.__name__)
def holder(request: pytest.FixtureRequest):
    return request.param


# ---- exclusion ---------------------------------------------------------------------------


@pytest.mark.parametrize("mine", KINDS)
@pytest.mark.parametrize("theirs", KINDS)
async def test_readers_share_and_writers_exclude(region: Region, holder, theirs: str, mine: str):
    async with holder(region, theirs):
        if mine == theirs == "read":
            hold = lock(region, mine)
            assert hold.acquire_nowait().readonly
            hold.release()
            return
        with pytest.raises(WouldBlockError):
            lock(region, mine).acquire_nowait()
        with anyio.move_on_after(0.02) as scope:
            async with lock(region, mine):
                pytest.fail("two are inside")
        assert scope.cancelled_caught
    async with lock(region, mine) as view:
        assert view.readonly is (mine == "read")


@pytest.mark.parametrize("mine", KINDS)
@pytest.mark.parametrize("theirs", KINDS)
async def test_a_thread_is_kept_out_as_well(region: Region, holder, theirs: str, mine: str):
    def attempt() -> str:
        try:
            with lock(region, mine, timeout=0.02):
                return "inside"
        except LockTimeoutError:
            return "outside"

    async with holder(region, theirs):
        expected = "inside" if mine == theirs == "read" else "outside"
        assert await anyio.to_thread.run_sync(attempt) == expected
    assert await anyio.to_thread.run_sync(attempt) == "inside"


@pytest.mark.parametrize("mine", KINDS)
async def test_a_waiting_task_gets_the_lock_when_it_is_released(region: Region, holder, mine: str):
    order = []

    async def wait() -> None:
        async with lock(region, mine):
            order.append("waiter")

    async with anyio.create_task_group() as group, holder(region, "write"):
        group.start_soon(wait)
        await anyio.sleep(0.02)
        order.append("holder")
    assert order == ["holder", "waiter"]


@pytest.mark.parametrize("mine", KINDS)
async def test_a_waiting_thread_gets_the_lock_when_it_is_released(
    region: Region, holder, mine: str
):
    order = []

    def wait() -> None:
        with lock(region, mine):
            order.append("waiter")

    async with anyio.create_task_group() as group, holder(region, "write"):
        group.start_soon(anyio.to_thread.run_sync, wait)
        await anyio.sleep(0.02)
        order.append("holder")
    assert order == ["holder", "waiter"]


async def test_a_foreign_flock_is_kept_out_by_ours(region: Region, rival: Rival):
    async with region.read_lock():
        assert rival.do("try-shared") == "done"
        assert rival.do("try-exclusive") == "busy"
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    async with region.write_lock():
        assert rival.do("try-shared") == "busy"
        rival.send("shared")
        wait_until(rival.is_blocked)
    assert rival.finish() == "done"
    with region.read_lock():
        pass


async def test_a_killed_holder_frees_the_lock(region: Region, rival: Rival):
    rival.do("exclusive")
    async with anyio.create_task_group() as group:

        @group.start_soon
        async def wait() -> None:
            async with region.write_lock() as view:
                view[0] = 1

        await anyio.sleep(0.02)
        assert region.buffer[0] == 0
        rival.process.kill()
    assert region.buffer[0] == 1


async def test_nobody_loses_an_update(region: Region):
    """Tasks, threads and a second loop increment across awaits and switches."""
    rounds = 30

    async def tasks() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one_task)

    async def one_task() -> None:
        for _ in range(rounds):
            async with region.write_lock() as view:
                seen = view[0]
                await anyio.lowlevel.checkpoint()
                view[0] = seen + 1

    def one_thread() -> None:
        for _ in range(rounds):
            with region.write_lock() as view:
                seen = view[0]
                threading.Event().wait(0.0001)
                view[0] = seen + 1

    async with anyio.create_task_group() as group:
        group.start_soon(tasks)
        group.start_soon(anyio.to_thread.run_sync, anyio.run, tasks)
        for _ in range(4):
            group.start_soon(anyio.to_thread.run_sync, one_thread)
    assert region.buffer[0] == rounds * (10 + 10 + 4)


async def test_readers_never_see_a_write_half_done(region: Region):
    done = False

    async def write() -> None:
        nonlocal done
        for number in range(200):
            async with region.write_lock() as view:
                view[0] = number
                await anyio.lowlevel.checkpoint()
                view[1] = number
        done = True

    async def read() -> None:
        while not done:
            async with region.read_lock() as view:
                assert view[0] == view[1]
                await anyio.lowlevel.checkpoint()
                assert view[0] == view[1]
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(read)
        group.start_soon(write)


# ---- many processes ----------------------------------------------------------------------

TORTURE = """
import random, sys, threading
import anyio
from shm_async import Region

name, kind, seed = sys.argv[1:]
region = Region.attach(name)
random.seed(int(seed))
ROUNDS = 150

async def task():
    for _ in range(ROUNDS):
        with anyio.move_on_after(random.choice([0.0005, 1000])) as scope:
            async with region.write_lock() as view:
                with anyio.CancelScope(shield=True):
                    seen = view[0]
                    await anyio.sleep(0)
                    view[0] = seen + 1
                    view[1] += 1
        if random.random() < 0.3:
            async with region.read_lock() as view:
                assert view[0] == view[1], list(view)

async def main():
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(task)

def thread():
    for _ in range(ROUNDS):
        with region.write_lock() as view:
            view[0], view[1] = view[0] + 1, view[1] + 1

if kind == "threads":
    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads: each.start()
    for each in threads: each.join()
elif kind == "uvloop":
    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})
else:
    anyio.run(main, backend=kind)
print("ended")
"""


def test_processes_of_every_kind_share_one_lock_with_cancelled_waits(region: Region, run_python):
    results = []
    threads = [
        threading.Thread(
            target=lambda k=kind, s=seed: results.append(run_python(TORTURE, k, str(s)))
        )
        for seed, kind in enumerate(["asyncio", "uvloop", "trio", "threads"])
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [(done.stdout, done.stderr) for done in results] == [("ended\n", "")] * 4
    assert region.buffer[0] == region.buffer[1] >= 4 * 150
    assert region.generation is not None
    assert region.generation % 2 == 0


KILLED = """
import sys
import anyio
from shm_async import Region
region = Region.attach(sys.argv[1])

async def task(number):
    while True:
        async with region.write_lock() as view:
            view[0] += 1
            await anyio.sleep(0)
            view[1] += 1
            print("x", end="", flush=True)

async def main():
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(task, number)

anyio.run(main)
"""


def test_killed_workers_never_keep_the_lock(region: Region):
    acknowledged = killed = 0
    for _ in range(8):
        worker = subprocess.Popen(
            [sys.executable, "-c", KILLED, region.name], stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        acknowledged += len(worker.stdout.read(20))
        worker.kill()
        acknowledged += len(worker.stdout.read())
        worker.stdout.close()
        worker.wait()
        killed += 1
        with region.write_lock(timeout=10, recover=True) as view:
            assert acknowledged <= view[1] <= view[0] <= acknowledged + killed * 2
            view[0] = view[1] = acknowledged
    assert acknowledged >= 160


def test_the_lock_of_an_unlinked_region_still_works(region: Region):
    region.unlink()
    with region.write_lock() as view:
        view[0] = 1
    with region.read_lock() as view, region.read_lock():
        assert view[0] == 1
