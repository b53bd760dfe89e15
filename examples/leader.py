"""A job that one of several processes does at each tick, whichever of them is alive: plain asyncio.

    make example NAME=leader

Three processes run the same loop, and one is killed in the middle of a tick. The others notice
at once, and one of them does that tick again.

Use it for what every copy of a service could do and just one should: a cleaning job, a poll of
another system, a report. Do not use it across hosts, or for a job that must never be done twice:
a process can be killed after the job and before it has written that down.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from shm_async import Region

TICK = 0.5  # seconds
DUE = 0  # the moment of the next tick, in nanoseconds of the monotonic clock, which all share
COUNT = 1  # ticks done
LAST = 2  # the pid of the process that did the last one
LENGTH = 3


def attach(name: str) -> Region:
    # "ignore": a tick that was not finished is due as before, so it is done again
    return Region.open(name, LENGTH, dtype="int64", on_owner_death="ignore")


async def every_tick(region: Region, job: Callable[[int], Awaitable[None]]) -> None:
    """Do the job whenever it is due and no other process is at it."""
    while True:
        async with region.write_lock() as view:  # the others wait here while one does the job
            if view[DUE] <= time.monotonic_ns():
                await job(view[COUNT] + 1)
                view[COUNT] += 1
                view[LAST] = os.getpid()
                view[DUE] = time.monotonic_ns() + int(TICK * 1e9)
            due = view[DUE]
        await asyncio.sleep(max(0.0, due / 1e9 - time.monotonic()))


# ---- the processes ---------------------------------------------------------------------


async def job(tick: int) -> None:
    print(f"process {os.getpid()} is at tick {tick}", flush=True)
    await asyncio.sleep(0.5)
    print(f"process {os.getpid()} has done tick {tick}", flush=True)


def candidate(name: str) -> None:
    with attach(name) as region:
        asyncio.run(every_tick(region, job))


def done(region: Region) -> int:
    return int(region.buffer[COUNT])  # one load needs no lock


async def reach(region: Region, ticks: int) -> None:
    async for _ in region.changes(since=0):
        if done(region) >= ticks:
            return


async def at_work(region: Region) -> int:
    """The pid of the process that is in the middle of a tick."""
    while True:
        for each in region.holders():
            if each.pid is not None and (each.since or 0) > 0.02:
                return each.pid
        await asyncio.sleep(0.005)


async def watch(region: Region) -> None:
    """Kill the process that is in the middle of a tick, and see how long the others need."""
    await reach(region, 4)
    pid = await at_work(region)
    os.kill(pid, signal.SIGKILL)
    killed, before = time.monotonic(), done(region)
    print(f"process {pid} was killed", flush=True)
    await reach(region, before + 1)
    print(f"the tick was done {time.monotonic() - killed:.2f} s after the kill", flush=True)
    await reach(region, before + 3)


def main() -> None:
    name = f"leader-{os.getpid()}"
    with Region.create(name, LENGTH, dtype="int64", on_owner_death="ignore") as region:
        command = [sys.executable, __file__, name]
        processes = [subprocess.Popen(command, start_new_session=True) for _ in range(3)]
        try:
            asyncio.run(watch(region))
        finally:
            for process in processes:
                process.kill()
                process.wait()
            region.unlink()


if __name__ == "__main__":
    try:
        candidate(sys.argv[1]) if len(sys.argv) > 1 else main()
    except KeyboardInterrupt:
        sys.exit(130)
