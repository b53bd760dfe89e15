"""What waiting for a busy lock costs an event loop that has other work.

A coroutine acquires a lock that another process has most of the time, and lets its event loop run
after each hold. A ticker of the same loop wants to run every millisecond. Measured: how late it
runs. A lock that is tried again and again in C stops the loop meanwhile, and so makes it late.
"""

import asyncio
import os
import time
from collections.abc import Callable

from benchmarks.builds.figures import Figure
from benchmarks.harness import quantile
from benchmarks.outcome import Bench
from benchmarks.processes import Pipe, members
from shm_async import Region

#: Seconds between two ticks; seconds of a measurement; of the holds of both processes.
TICK, SECONDS, QUICK = 0.001, 2.0, 0.8
HOLDS = (0.0, 10e-6, 100e-6)

FIGURES = tuple(
    Figure(f"holds of {hold * 1e6:g} µs: ticker late by, {which}", "µs", "less")
    for hold in HOLDS
    for which in ("p50", "p99")
)


def measure(bench: Bench) -> dict[str, float]:
    """Return how late the ticker was, in microseconds."""
    cpus = sorted(os.sched_getaffinity(0))
    seconds = QUICK if bench.quick else SECONDS
    found: dict[str, float] = {}
    for hold in HOLDS:
        name = bench.place.name()
        both = [(name, hold, seconds, cpus[0]), (name, hold, 0.0, cpus[-1])]
        with members(member, both, bench.build) as [ticking, _rival]:
            late = sorted(ticking.receive())
        what = f"holds of {hold * 1e6:g} µs: ticker late by"
        found[f"{what}, p50"] = quantile(late, 0.5) * 1e6
        found[f"{what}, p99"] = quantile(late, 0.99) * 1e6
    return found


def member(pipe: Pipe, name: str, hold: float, seconds: float, cpu: int) -> None:
    """Count for ever; with `seconds`, tick meanwhile and tell how late the ticks were."""
    os.sched_setaffinity(0, {cpu})
    with Region.open(name, 8, dtype="uint64") as region:
        if seconds:
            pipe.send(asyncio.run(tick_beside(region, hold, seconds)))
        else:
            asyncio.run(count(region, hold, lambda: False))


async def tick_beside(region: Region, hold: float, seconds: float) -> list[float]:
    over = False
    counting = asyncio.ensure_future(count(region, hold, lambda: over))
    await asyncio.sleep(0.2)  # the other process is there
    late = []
    end = time.monotonic() + seconds
    while (due := time.monotonic() + TICK) < end:
        await asyncio.sleep(TICK)
        late.append(time.monotonic() - due)
    over = True
    await counting
    return late


async def count(region: Region, hold: float, over: Callable[[], bool]) -> None:
    while not over():
        async with region.write_lock() as view:
            view[0] += 1
            end = time.perf_counter() + hold
            while hold and time.perf_counter() < end:
                pass
        await asyncio.sleep(0)
