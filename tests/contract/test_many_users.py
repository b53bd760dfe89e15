"""Many users of one lock at once: tasks, threads, loops and processes, and some are killed."""

import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
from rivals import Rival

from shm_async import Region


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
