"""idle: the CPU time that 1,000 waiting coroutines use while another process has the lock.

Measured: CPU time of the waiting process, all its threads and what the kernel does for
them, by its CPU clock read from outside, as percent of one CPU; and its threads.
The waiters have been in line for a second by then. Not measured: how they got there.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import anyio

from benchmarks import peers
from benchmarks.harness import Report, interleave, summarise
from benchmarks.loops import LOOPS
from benchmarks.loops import run as run_loop
from benchmarks.outcome import Bars, Bench, Outcome, Table, Target
from benchmarks.peers import AsyncHandle
from benchmarks.processes import Pipe, members

WAITERS = 1000

#: Each with its event loop, and whether all waiters share one handle.
VARIANTS: dict[str, tuple[str, Callable[[str], AsyncHandle], bool]] = {
    **{f"shm_async, {loop}": (loop, peers.ours, True) for loop in LOOPS},
    peers.NAIVE: ("asyncio", peers.naive, False),
    peers.NAIVE_UNLIMITED: ("asyncio", peers.naive_unlimited, False),
    peers.PORTALOCKER: ("asyncio", peers.portalocker_async, False),
    peers.FASTENERS: ("asyncio", peers.fasteners_async, False),
    peers.ASYNC_FILE_LOCK: ("asyncio", peers.async_file_lock, False),
    peers.ASYNC_RW_LOCK: ("asyncio", peers.async_read_write_lock, True),
}


def run(bench: Bench, report: Report) -> Outcome:
    rounds, seconds = bench.pick(1, 2), bench.pick(1, 2)
    variants = {who: partial(idle, bench, who, seconds) for who in VARIANTS}
    found = interleave(variants, rounds, report)
    outcome = Outcome(f"CPU time of {WAITERS:,} waiters while another process has the lock")
    table = Table(outcome.title, ("CPU %", "threads"))
    outcome.tables.append(table)
    for who, several in found.items():
        percents = [percent for percent, _ in several]
        outcome.samples[who] = summarise(percents)
        table.add(who, statistics.median(percents), max(threads for _, threads in several))
        if who.startswith("shm_async"):
            value = statistics.median(percents)
            outcome.targets.append(Target(f"{who}: idle", value, "<", 0.1, "% CPU"))
    table.add(peers.AIORWLOCK, "one process only", "")
    outcome.charts.append(
        Bars(
            "idle",
            outcome.title,
            "percent of one CPU",
            [(who, cells[0]) for who, cells in table.rows if who in VARIANTS],
            log=True,
        )
    )
    return outcome


def idle(bench: Bench, who: str, seconds: float) -> tuple[float, int]:
    """Return percent of a CPU, and threads."""
    name = bench.place.name()
    with members(holder, [(who, name)]) as [one]:
        one.receive()
        with members(waiter, [(who, name)]) as [crowd]:
            crowd.receive()
            time.sleep(1)
            pid = crowd.process.pid
            assert pid is not None
            start, used = time.monotonic(), cpu_seconds(pid)
            time.sleep(seconds)
            used = cpu_seconds(pid) - used
            threads = len(os.listdir(f"/proc/{pid}/task"))
            return 100 * used / (time.monotonic() - start), threads


def cpu_seconds(pid: int) -> float:
    """CPU time of another process; its clock's number is what clock_getcpuclockid(3) returns."""
    return time.clock_gettime((~pid << 3) | 2)


def holder(pipe: Pipe, who: str, name: str) -> None:
    loop, maker, _ = VARIANTS[who]
    run_loop(loop, hold, pipe, maker, name)


async def hold(pipe: Pipe, maker: Callable[[str], AsyncHandle], name: str) -> NoReturn:
    async with maker(name).write():
        pipe.send("held")
        await anyio.sleep_forever()
    raise AssertionError("for ever is over")


def waiter(pipe: Pipe, who: str, name: str) -> None:
    loop, maker, shared = VARIANTS[who]
    run_loop(loop, wait, pipe, maker, shared, name)


async def wait(pipe: Pipe, maker: Callable[[str], AsyncHandle], shared: bool, name: str) -> None:
    first = maker(name)

    async def one(handle: AsyncHandle) -> None:
        async with handle.write():
            raise AssertionError("the lock was not free")

    async with anyio.create_task_group() as group:
        for _ in range(WAITERS):
            group.start_soon(one, first if shared else maker(name))
        await anyio.sleep(0.1)
        pipe.send("waiting")
