"""pair: what a free lock costs, acquire and release, as a multiple of one raw flock pair.

Measured: the mean time of a pair in a round of some milliseconds, the view that ours
hands out included, in one process that does nothing else. "Second reader" means that
another task of the process reads already, "nested" that the same task does. Nobody
wants the lock meanwhile: what waiting costs is told by handover and crowd.
"""

import asyncio
import fcntl
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks import peers
from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.outcome import Bars, Bench, Cell, Outcome, Table, Target
from benchmarks.peers import AsyncHandle, AsyncLock, SyncHandle, SyncLock
from benchmarks.processes import in_child
from shm_async import Region

RAW = "raw fcntl.flock"
OURS = "shm_async, asyncio"
OURS_UVLOOP = "shm_async, uvloop"
OURS_NESTED = "shm_async, asyncio, nested"
OURS_SYNC = "shm_async"
ASYNCIO_LOCK = "asyncio.Lock (in-process only)"
LEAST = "raw flock and a view, nothing else"

ASYNC_WRITE = "async write"
ASYNC_READ = "async read"
SECOND_READER = "async second reader"
SYNC_WRITE = "sync write"
SYNC_READ = "sync read"
GROUPS = (ASYNC_WRITE, ASYNC_READ, SECOND_READER, SYNC_WRITE, SYNC_READ)

#: Seconds that one variant takes in one round, and the most pairs that it does then.
SLICE, MOST_PAIRS = 0.004, 2000

#: Pairs before the clock starts: they wake the peers' worker threads.
WARM_UP = 3

NO_READERS = {
    (ASYNC_READ, peers.ASYNC_FILE_LOCK): "no readers",
    (SECOND_READER, peers.ASYNC_FILE_LOCK): "no readers",
    (SECOND_READER, peers.FASTENERS): "no second reader",
    (SYNC_READ, "filelock FileLock"): "no readers",
}

#: Seconds per pair, for a number of pairs.
Measure = Callable[[int], float]
Times = dict[tuple[str, str], list[float]]


def run(bench: Bench, report: Report) -> Outcome:
    times: Times
    times, pairs = in_child(report, measure, bench.place.name(), bench.pick(25, 120))
    outcome = Outcome("A free lock: acquire and release")
    raw = times["", RAW]
    for group in GROUPS:
        table = Table(f"{group}, uncontended", ("median µs", "p99 of rounds µs", "x raw", "pairs"))
        for (its_group, who), values in times.items():
            if its_group in ("", group):
                facts = summarise(values)
                assert facts is not None
                table.add(
                    who,
                    facts.median * 1e6,
                    facts.p99 * 1e6,
                    median_ratio(values, raw),
                    pairs[its_group, who] * len(values),
                )
                outcome.samples[f"{group}: {who}"] = facts
        for (its_group, who), reason in NO_READERS.items():
            if its_group == group:
                table.add(who, reason, "", "", "")
        outcome.tables.append(table)
    outcome.targets += targets(times)
    outcome.charts += charts(times)
    outcome.notes.append(
        f"raw is fcntl.flock(LOCK_EX | LOCK_NB) and LOCK_UN from Python: "
        f"{statistics.median(raw) * 1e6:.2f} µs"
    )
    return outcome


def targets(times: Times) -> list[Target]:
    raw, write = times["", RAW], times[ASYNC_WRITE, OURS]
    alike, second = times[ASYNC_WRITE, ASYNCIO_LOCK], times[SECOND_READER, OURS]

    def over_raw(what: str, group: str, who: str, limit: float) -> Target:
        return Target(what, median_ratio(times[group, who], raw), "<=", limit, "x raw")

    def over_ours(peer: str, limit: float) -> Target:
        ratio = median_ratio(times[ASYNC_WRITE, peer], write)
        return Target(f"{peer} / ours, async write", ratio, ">=", limit, "x")

    return [
        over_raw("async write", ASYNC_WRITE, OURS, 2.3),
        over_raw("async read", ASYNC_READ, OURS, 2.3),
        over_raw("async second reader", SECOND_READER, OURS, 0.9),
        Target("(async write - raw) / asyncio.Lock", beyond_raw(write, raw, alike), "<=", 1.4, "x"),
        Target("async second reader / asyncio.Lock", median_ratio(second, alike), "<=", 1.2, "x"),
        over_raw("sync write", SYNC_WRITE, OURS_SYNC, 2.2),
        over_ours(peers.NAIVE, 40),
        over_ours(peers.PORTALOCKER, 100),
        over_ours(peers.FASTENERS, 100),
        over_ours(peers.ASYNC_FILE_LOCK, 250),
        over_ours(peers.ASYNC_RW_LOCK, 350),
    ]


def beyond_raw(ours: list[float], raw: list[float], base: list[float]) -> float:
    """What ours costs beside the system calls, as a multiple of another lock."""
    return statistics.median((a - b) / c for a, b, c in zip(ours, raw, base, strict=True))


def charts(times: Times) -> list[Bars]:
    raw = times["", RAW]

    def bars(group: str) -> list[tuple[str, Cell]]:
        found = [(who, median_ratio(v, raw)) for (g, who), v in times.items() if g == group]
        return [(RAW, 1.0), *sorted(found, key=lambda each: each[1])]

    return [
        Bars(
            f"pair-{group.replace(' ', '-')}",
            f"A free lock, {group}: acquire and release",
            "multiples of one raw flock pair",
            bars(group),
            log=True,
        )
        for group in (ASYNC_WRITE, ASYNC_READ, SECOND_READER, SYNC_WRITE)
    ]


# ---- in the measuring process ------------------------------------------------------


def measure(report: Report, name: str, rounds: int) -> tuple[Times, dict[tuple[str, str], int]]:
    """Return seconds per pair, and pairs per round, of each variant."""
    loops: list[asyncio.AbstractEventLoop] = [asyncio.new_event_loop(), uvloop.new_event_loop()]
    with Region.create(name, 64) as region:
        variants = raw_variant(region) | async_variants(region, name, *loops)
        variants |= sync_variants(region, name)
        pairs = {key: pairs_per_round(variant) for key, variant in variants.items()}
        runs = {": ".join(key): (lambda k=key: variants[k](pairs[k])) for key in variants}
        found = interleave(runs, rounds, report)
    for loop in loops:
        loop.close()
    return {key: found[": ".join(key)] for key in variants}, pairs


def pairs_per_round(variant: Measure) -> int:
    variant(1)
    return max(2, min(MOST_PAIRS, int(SLICE / variant(5))))


def raw_variant(region: Region) -> dict[tuple[str, str], Measure]:
    fd = os.open(f"/dev/shm/{region.name}", os.O_RDWR | os.O_CLOEXEC)

    def raw(pairs: int) -> float:
        start = time.perf_counter()
        for _ in range(pairs):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_UN)
        return (time.perf_counter() - start) / pairs

    return {("", RAW): raw}


def async_variants(
    region: Region, name: str, plain: asyncio.AbstractEventLoop, fast: asyncio.AbstractEventLoop
) -> dict[tuple[str, str], Measure]:
    mine = AsyncHandle(region.write_lock, region.read_lock)

    async def made(maker: Callable[[str], AsyncHandle], part: str) -> AsyncHandle:
        return maker(name + part)

    handles = [(OURS, plain, mine, mine), (OURS_UVLOOP, fast, mine, mine)]
    for number, (who, maker) in enumerate(peers.ASYNC.items()):
        handle = plain.run_until_complete(made(maker, f"-{number}"))
        if who == peers.AIORWLOCK:  # another handle would be another lock
            handles.append((who, plain, handle, handle))
        else:
            other = plain.run_until_complete(made(maker, f"-{number}"))
            handles.append((who, plain, handle, other))
    variants: dict[tuple[str, str], Measure] = {}
    for who, loop, handle, other in handles:
        variants[ASYNC_WRITE, who] = in_loop(loop, async_pairs, handle.write)
        if handle.read is None or other.read is None:
            continue
        variants[ASYNC_READ, who] = in_loop(loop, async_pairs, handle.read)
        if (SECOND_READER, who) not in NO_READERS:
            variants[SECOND_READER, who] = in_loop(loop, second_reader, handle.read, other.read)
    alike = asyncio.Lock()
    variants[ASYNC_WRITE, ASYNCIO_LOCK] = in_loop(plain, async_pairs, lambda: alike)
    least = Least(region)
    variants[ASYNC_WRITE, LEAST] = in_loop(plain, async_pairs, lambda: least)
    variants[SECOND_READER, OURS_NESTED] = in_loop(plain, nested_reader, region.read_lock)
    return variants


class Least:
    """What the plainest `async with` does that has a flock and a view: no check, no count."""

    def __init__(self, region: Region) -> None:
        self.fd = os.open(f"/dev/shm/{region.name}", os.O_RDWR | os.O_CLOEXEC)
        self.buffer = region.buffer
        self.view = self.buffer

    async def __aenter__(self) -> memoryview:
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.view = self.buffer[:]
        return self.view

    async def __aexit__(self, *_error: object) -> None:
        self.view.release()
        fcntl.flock(self.fd, fcntl.LOCK_UN)


def in_loop(
    loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *locks: AsyncLock
) -> Measure:
    def measured(pairs: int) -> float:
        seconds: float = loop.run_until_complete(function(pairs, *locks))
        return seconds

    return measured


async def async_pairs(pairs: int, lock: AsyncLock) -> float:
    for _ in range(WARM_UP):
        async with lock():
            pass
    start = time.perf_counter()
    for _ in range(pairs):
        async with lock() as _view:
            pass
    return (time.perf_counter() - start) / pairs


async def second_reader(pairs: int, lock: AsyncLock, firsts_lock: AsyncLock) -> float:
    reading, done = asyncio.Event(), asyncio.Event()

    async def first_reader() -> None:
        async with firsts_lock():
            reading.set()
            await done.wait()

    first = asyncio.ensure_future(first_reader())
    await reading.wait()
    try:
        return await async_pairs(pairs, lock)
    finally:
        done.set()
        await first


async def nested_reader(pairs: int, lock: AsyncLock) -> float:
    async with lock():
        return await async_pairs(pairs, lock)


def sync_variants(region: Region, name: str) -> dict[tuple[str, str], Measure]:
    handles = {OURS_SYNC: SyncHandle(region.write_lock, region.read_lock)}
    for number, (who, maker) in enumerate(peers.SYNC.items()):
        handles[who] = maker(f"{name}-sync-{number}")
    variants: dict[tuple[str, str], Measure] = {}
    for who, handle in handles.items():
        variants[SYNC_WRITE, who] = sync_pairs(handle.write)
        if handle.read is not None:
            variants[SYNC_READ, who] = sync_pairs(handle.read)
    return variants


def sync_pairs(lock: SyncLock) -> Measure:
    def measured(pairs: int) -> float:
        start = time.perf_counter()
        for _ in range(pairs):
            with lock() as _view:
                pass
        return (time.perf_counter() - start) / pairs

    return measured
