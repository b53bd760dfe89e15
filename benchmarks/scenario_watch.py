"""watch: how long until a watcher hears of a change, and what that costs who writes.

Measured: from just before the end of a write lock in one process until a coroutine of another
one runs that waits in `region.wait_changed`, by CLOCK_MONOTONIC stamps in shared memory. The
writer pauses for 2 ms after each, so the watcher sleeps. A pipe from the one process to the
other, with a reader of asyncio at its end, is what the kernel can do for two that know each other.

And a pair of acquire and release of the write lock, by `with`, flat out, on a region that nobody
watches and on one that other processes do: their difference is what a writer pays for
telling. The watchers are awake all the time then, on another CPU. At a leisurely pace, a
millisecond apart, the writer pays for waking them, too. Each process stays on its CPU.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.loops import LOOPS
from benchmarks.loops import run as run_loop
from benchmarks.outcome import Bars, Bench, Outcome, Table, Target
from benchmarks.processes import Member, Pipe, members
from benchmarks.scenario_handover import two_cpus
from shm_async import Region

PIPE = "a pipe, asyncio"
NOBODY = "nobody watches"
WATCHERS = (1, 4)  # processes
PAUSE = 0.002  # seconds
PAIRS, SLOW_PAIRS = 2000, 50  # in one round
STOP = 1 << 62  # a stamp that ends a round


def run(bench: Bench, report: Report) -> Outcome:
    outcome = Outcome("Change notification")
    wake_up(bench, lambda label, share: report(label, share / 2), outcome)
    writers_cost(bench, lambda label, share: report(label, 0.5 + share / 2), outcome)
    return outcome


# ---- how long -------------------------------------------------------------------------


def wake_up(bench: Bench, report: Report, outcome: Outcome) -> None:
    rounds, changes = bench.pick(3, 6), bench.pick(150, 500)
    cpus = two_cpus()
    variants: dict[str, Callable[[], list[float]]] = {
        f"shm_async, {loop}": partial(hear, bench, loop, changes, cpus) for loop in LOOPS
    }
    variants[PIPE] = partial(hear_by_pipe, changes, cpus)
    found = interleave(variants, rounds, report)
    table = Table("From the end of a write to the watcher", ("median µs", "p99 µs", f"x {PIPE}"))
    base = [statistics.median(samples) for samples in found[PIPE]]
    for who, each in found.items():
        facts = outcome.samples[who] = summarise(sample for samples in each for sample in samples)
        assert facts is not None
        ratio = median_ratio([statistics.median(samples) for samples in each], base)
        table.add(who, facts.median * 1e6, facts.p99 * 1e6, ratio)
        if who == "shm_async, asyncio":
            outcome.targets.append(Target(f"{who}: hears of a change", ratio, "<=", 2, "x a pipe"))
    outcome.tables.append(table)
    outcome.charts.append(
        Bars(
            "watch",
            table.title,
            "µs: median, line up to p99",
            [(who, cells[0]) for who, cells in table.rows],
            [cells[1] if isinstance(cells[1], float) else None for _, cells in table.rows],
        )
    )


def hear(bench: Bench, loop: str, changes: int, cpus: tuple[int, int]) -> list[float]:
    """One round: seconds from each write to the watcher."""
    os.sched_setaffinity(0, {cpus[0]})
    with Region.create(bench.place.name(), 1, dtype="uint64") as region:
        with members(watcher, [(loop, region.name, cpus[1])]) as [one]:
            one.receive()
            for number in range(changes + 1):
                time.sleep(PAUSE)
                with region.write_lock() as view:
                    view[0] = time.monotonic_ns() if number < changes else STOP
            samples: list[float] = one.receive()
        region.unlink()
    return samples


def watcher(pipe: Pipe, loop: str, name: str, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    run_loop(loop, listen, pipe, name)


async def listen(pipe: Pipe, name: str) -> None:
    samples = []
    with Region.attach(name) as region:
        changes, stamp = region.changes(), region.buffer
        pipe.send("watching")
        async for _ in changes:
            now = time.monotonic_ns()
            if stamp[0] == STOP:
                break
            samples.append((now - stamp[0]) / 1e9)
    pipe.send(samples)


def hear_by_pipe(changes: int, cpus: tuple[int, int]) -> list[float]:
    os.sched_setaffinity(0, {cpus[0]})
    with members(pipe_reader, [(cpus[1],)]) as [one]:
        one.receive()
        for number in range(changes + 1):
            time.sleep(PAUSE)
            one.pipe.send(time.monotonic_ns() if number < changes else STOP)
        samples: list[float] = one.receive()
    return samples


def pipe_reader(pipe: Pipe, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    asyncio.run(listen_to_pipe(pipe))


async def listen_to_pipe(pipe: Pipe) -> None:
    samples: list[float] = []
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe.fileno(), readable.set)
    pipe.send("watching")
    while True:
        await readable.wait()
        readable.clear()
        now = time.monotonic_ns()
        stamp = pipe.recv()
        if stamp == STOP:
            break
        samples.append((now - stamp) / 1e9)
    pipe.send(samples)


# ---- what it costs ----------------------------------------------------------------------


def writers_cost(bench: Bench, report: Report, outcome: Outcome) -> None:
    with members(writer, [(two_cpus()[0],)]) as [one]:
        names = {NOBODY: bench.place.name()}
        for count in WATCHERS:
            names[f"{count} processes watch" if count > 1 else "1 process watches"] = (
                bench.place.name()
            )
        one.ask(list(names.values()))
        crowd = [
            (LOOPS[0], name, two_cpus()[1])
            for count, name in zip(WATCHERS, list(names.values())[1:], strict=True)
            for _ in range(count)
        ]
        with members(idle_watcher, crowd) as watching:
            for each in watching:
                each.receive()
            variants = {who: partial(pair, one, name) for who, name in names.items()}
            found = interleave(variants, bench.pick(20, 80), report)
    table = Table(
        "The write lock, acquire and release, while others watch",
        ("flat out, µs", "more, µs", f"x {NOBODY}", "at leisure, µs", "more, µs"),
    )
    quick, slow = ({who: [each[i] for each in found[who]] for who in found} for i in (0, 1))
    for who in names:
        more = [
            statistics.median(a - b for a, b in zip(times[who], times[NOBODY], strict=True)) * 1e6
            for times in (quick, slow)
        ]
        outcome.samples[who] = summarise(quick[who])
        table.add(
            who,
            statistics.median(quick[who]) * 1e6,
            more[0],
            median_ratio(quick[who], quick[NOBODY]),
            statistics.median(slow[who]) * 1e6,
            more[1],
        )
        if who == "1 process watches":
            outcome.targets.append(Target("telling one watcher, flat out", more[0], "<=", 3, "µs"))
    outcome.tables.append(table)


def pair(one: Member, name: str) -> tuple[float, float]:
    """Seconds for a pair, flat out and at leisure."""
    quick, slow = one.ask(name)
    return quick, slow


def writer(pipe: Pipe, cpu: int) -> NoReturn:
    os.sched_setaffinity(0, {cpu})
    regions = {name: Region.create(name, 1) for name in pipe.recv()}
    pipe.send("ready")
    while True:
        region = regions[pipe.recv()]
        pipe.send((flat_out(region), at_leisure(region)))


def flat_out(region: Region) -> float:
    start = time.perf_counter()
    for _ in range(PAIRS):
        with region.write_lock() as _view:
            pass
    return (time.perf_counter() - start) / PAIRS


def at_leisure(region: Region) -> float:
    times = []
    for _ in range(SLOW_PAIRS):
        time.sleep(PAUSE / 2)
        start = time.perf_counter()
        with region.write_lock() as _view:
            pass
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def idle_watcher(pipe: Pipe, loop: str, name: str, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    run_loop(loop, follow, pipe, name)


async def follow(pipe: Pipe, name: str) -> None:
    with Region.attach(name) as region:
        changes = region.changes()
        pipe.send("watching")
        async for _ in changes:
            pass
