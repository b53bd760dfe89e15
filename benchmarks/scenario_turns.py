"""turns: how long a lock takes from one coroutine to the next of the same event loop.

Each coroutine acquires, yields once inside with ``sleep(0)``, so that the others queue, and
releases; again and again. Measured: the time of one hold, in one process that does nothing
else, with the two rounds of the event loop that any lock needs. Nobody else wants the lock
meanwhile. asyncio.Lock excludes the coroutines of one process only; it shows what the event
loop costs.
"""

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any

import aiorwlock
import uvloop

from benchmarks import peers
from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.outcome import Bench, Outcome, Table, Target
from benchmarks.peers import AsyncLock
from benchmarks.processes import in_child
from shm_async import Region

#: Coroutines that take turns.
CROWDS = (10, 100, 1000)

#: Turns of all coroutines together in one round.
TURNS = 4000

OURS = "shm_async, asyncio"
OURS_UVLOOP = "shm_async, uvloop"
ASYNCIO_LOCK = "asyncio.Lock, asyncio"
ASYNCIO_LOCK_UVLOOP = "asyncio.Lock, uvloop"

FUTURES = "a queue of futures, nothing else"

Times = dict[tuple[str, int], list[float]]


def run(bench: Bench, report: Report) -> Outcome:
    times: Times = in_child(report, measure, bench.place.name(), bench.pick(15, 60))
    outcome = Outcome("A lock that coroutines of one event loop hand to each other")
    for crowd in CROWDS:
        table = Table(
            f"{crowd} coroutines that yield once inside",
            ("median µs a turn", "p99 of rounds µs", "x asyncio.Lock"),
        )
        outcome.tables.append(table)
        for (who, its_crowd), values in times.items():
            if its_crowd != crowd:
                continue
            facts = summarise(values)
            assert facts is not None
            outcome.samples[f"{who}: {crowd}"] = facts
            ratio = median_ratio(values, times[base_of(who), crowd])
            table.add(who, facts.median * 1e6, facts.p99 * 1e6, ratio)
        ratio = median_ratio(times[OURS, crowd], times[ASYNCIO_LOCK, crowd])
        outcome.targets.append(Target(f"{crowd} coroutines / asyncio.Lock", ratio, "<=", 1.4, "x"))
    return outcome


def base_of(who: str) -> str:
    """The lock of asyncio on the same event loop."""
    return ASYNCIO_LOCK_UVLOOP if who.endswith("uvloop") else ASYNCIO_LOCK


# ---- in the measuring process ------------------------------------------------------


def measure(report: Report, name: str, rounds: int) -> Times:
    """Return seconds a turn, of each lock and crowd."""
    plain, fast = asyncio.new_event_loop(), uvloop.new_event_loop()
    with Region.create(name, 64) as region:
        locks: list[tuple[str, asyncio.AbstractEventLoop, AsyncLock]] = [
            (OURS, plain, region.write_lock),
            (OURS_UVLOOP, fast, region.write_lock),
            (ASYNCIO_LOCK, plain, the_same(asyncio.Lock())),
            (ASYNCIO_LOCK_UVLOOP, fast, the_same(asyncio.Lock())),
            (FUTURES, plain, the_same(Futures(plain))),
            (peers.AIORWLOCK, plain, the_same(plain.run_until_complete(made()))),
        ]
        variants = {
            (who, crowd): partial(a_round, loop, lock, crowd)
            for crowd in CROWDS
            for who, loop, lock in locks
        }
        named = {f"{who}: {crowd}": play for (who, crowd), play in variants.items()}
        found = interleave(named, rounds, report)
    plain.close()
    fast.close()
    return dict(zip(variants, found.values(), strict=True))


def the_same(lock: Any) -> AsyncLock:
    return lambda: lock


class Futures:
    """What coroutines need at least that wake each other in turn: it copes with no cancellation."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.taken = False
        self.queue: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self.taken:
            future = self.loop.create_future()
            self.queue.append(future)
            await future
        self.taken = True

    async def __aexit__(self, *_error: object) -> None:
        if self.queue:
            self.queue.popleft().set_result(None)
        else:
            self.taken = False


async def made() -> Any:
    """The write lock of aiorwlock, which must be made in an event loop."""
    return aiorwlock.RWLock(fast=True).writer


def a_round(loop: asyncio.AbstractEventLoop, lock: AsyncLock, crowd: int) -> float:
    return loop.run_until_complete(take_turns(lock, crowd, TURNS // crowd))


async def take_turns(lock: AsyncLock, crowd: int, times: int) -> float:
    async def one() -> None:
        for _ in range(times):
            async with lock():
                await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(one()) for _ in range(crowd)]
    start = time.perf_counter()
    await asyncio.gather(*tasks)
    return (time.perf_counter() - start) / (crowd * times)
