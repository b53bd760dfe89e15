"""watch: how long until a watcher hears of a change, and what that costs who writes.

Measured: from just before the end of a write lock in one process until a coroutine of another
one runs that waits in `region.wait_changed`, by CLOCK_MONOTONIC stamps in shared memory. The
writer pauses for 2 ms after each, so the watcher sleeps. A pipe from the one process to the
other, with a reader of asyncio at its end, is what the kernel can do for two that know each other.

And a pair of acquire and release of the write lock, by `with`, flat out, on a region that nobody
watches and on one that other processes do: their difference is what a writer pays for
telling. The watchers are awake all the time then, on another CPU, so they are compared with
a CPU that is as busy. At a leisurely pace, a millisecond apart, the writer pays for waking
them each time, as whoever wakes somebody does: a byte into a pipe that a process sleeps on tells
how much. Each process stays on its CPU.
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
from benchmarks.peers import SyncLock
from benchmarks.place import SHM
from benchmarks.processes import Member, Pipe, members
from benchmarks.scenario_handover import two_cpus
from shm_async import Region

PIPE = "a pipe, asyncio"
QUICK, SLOW = "flat out, ", "at leisure, "
NOBODY = "nobody watches"
BUSY = "nobody watches, the other CPU is busy"
ONE = "1 process watches"
CROWDS = {ONE: 1, "4 processes watch": 4}
FIFO = "instead of the lock, a byte to a process that reads a pipe"
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
        changes, board = region.changes(), region.buffer
        pipe.send("watching")
        async for _ in changes:
            stamp = board[0]
            if stamp == STOP:
                break
            samples.append((time.monotonic_ns() - stamp) / 1e9)
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
    stamps: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), lambda: stamps.put_nowait(pipe.recv()))
    pipe.send("watching")
    while (stamp := await stamps.get()) != STOP:
        samples.append((time.monotonic_ns() - stamp) / 1e9)
    loop.remove_reader(pipe.fileno())
    pipe.send(samples)


# ---- what it costs ----------------------------------------------------------------------


def writers_cost(bench: Bench, report: Report, outcome: Outcome) -> None:
    cpus = two_cpus()
    names = {who: bench.place.name() for who in (NOBODY, *CROWDS)}
    byte = bench.place.name()
    os.mkfifo(fifo(byte))
    crowd = [(names[who], cpus[1]) for who, count in CROWDS.items() for _ in range(count)]
    with (
        members(writer, [(cpus[0], list(names.values()))]) as [one],
        members(burner, [(cpus[1],)]) as [heater],
    ):
        one.receive()
        with members(follower, crowd) as all_, members(drainer, [(byte, cpus[1])]) as [reader]:
            for each in (*all_, reader):
                each.receive()
            variants: dict[str, Callable[[], float]] = {
                QUICK + BUSY: partial(beside, heater, one, ("flat out", names[NOBODY])),
                SLOW + FIFO: partial(one.ask, ("byte", byte)),
            }
            for who, name in names.items():
                variants[QUICK + who] = partial(one.ask, ("flat out", name))
                variants[SLOW + who] = partial(one.ask, ("at leisure", name))
            found = interleave(variants, bench.pick(20, 80), report)
    cost_table(outcome, found, QUICK, (NOBODY, BUSY, *CROWDS), BUSY)
    cost_table(outcome, found, SLOW, (NOBODY, *CROWDS, FIFO), NOBODY)


def cost_table(
    outcome: Outcome,
    found: dict[str, list[float]],
    pace: str,
    rows: tuple[str, ...],
    base: str,
) -> None:
    table = Table(
        f"The write lock, acquire and release, {pace}while others watch",
        ("median µs", f"more than: {base}, µs"),
    )
    for who in rows:
        times = found[pace + who]
        outcome.samples[pace + who] = summarise(times)
        more = statistics.median(a - b for a, b in zip(times, found[pace + base], strict=True))
        table.add(who, statistics.median(times) * 1e6, "" if who == FIFO else more * 1e6)
        if (pace, who) == (QUICK, ONE):
            what = "telling one watcher, flat out"
            outcome.targets.append(Target(what, more * 1e6, "<=", 3, "µs"))
    outcome.tables.append(table)


def beside(heater: Member, one: Member, words: tuple[str, str]) -> float:
    heater.ask("burn")
    seconds: float = one.ask(words)
    heater.ask("stop")
    return seconds


def burner(pipe: Pipe, cpu: int) -> NoReturn:
    os.sched_setaffinity(0, {cpu})
    while True:
        pipe.send(pipe.recv())
        while not pipe.poll(0):
            pass
        pipe.send(pipe.recv())


def fifo(name: str) -> str:
    return f"{SHM}/{name}.fifo"


def writer(pipe: Pipe, cpu: int, names: list[str]) -> NoReturn:
    os.sched_setaffinity(0, {cpu})
    locks = {name: Region.create(name, 1).write_lock for name in names}
    pipe.send("ready")
    byte_to: dict[str, int] = {}
    while True:
        what, name = pipe.recv()
        if what == "flat out":
            pipe.send(flat_out(locks[name]))
        elif what == "at leisure":
            pipe.send(at_leisure(partial(pair, locks[name])))
        else:
            if name not in byte_to:
                byte_to[name] = os.open(fifo(name), os.O_WRONLY)
            pipe.send(at_leisure(partial(os.write, byte_to[name], b"x")))


def pair(lock: SyncLock) -> None:
    with lock() as _view:
        pass


def flat_out(lock: SyncLock) -> float:
    start = time.perf_counter()
    for _ in range(PAIRS):
        with lock() as _view:
            pass
    return (time.perf_counter() - start) / PAIRS


def at_leisure(act: Callable[[], object]) -> float:
    times = []
    for _ in range(SLOW_PAIRS):
        time.sleep(PAUSE / 2)
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def follower(pipe: Pipe, name: str, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    asyncio.run(follow(pipe, name))


async def follow(pipe: Pipe, name: str) -> None:
    with Region.attach(name) as region:
        changes = region.changes()
        pipe.send("watching")
        async for _ in changes:
            pass


def drainer(pipe: Pipe, name: str, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    asyncio.run(drain(pipe, name))


async def drain(pipe: Pipe, name: str) -> NoReturn:
    fd = os.open(fifo(name), os.O_RDONLY | os.O_NONBLOCK)
    asyncio.get_running_loop().add_reader(fd, os.read, fd, 100)
    pipe.send("reading")
    await asyncio.Event().wait()
    raise AssertionError("for ever is over")
