"""crowd: many coroutines in each of two processes, all after one write lock, 20 µs a hold.

Measured over one span of time that both processes share, when all are in line: holds a
second, how long each hold was waited for, each process's share, how evenly its coroutines
were served, and what waiting costs (threads and memory beyond what there was before).
Both processes are killed at its end, so no figure tells how a crowd begins or ends.
A hold is busy: it spins, as a short update of shared memory does.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import anyio
import anyio.lowlevel

from benchmarks import peers
from benchmarks.harness import Report, interleave, quantile, summarise
from benchmarks.loops import LOOPS
from benchmarks.loops import run as run_loop
from benchmarks.outcome import Bench, Cell, Lines, Outcome, Table, Target
from benchmarks.peers import AsyncHandle
from benchmarks.processes import Pipe, members

PROCESSES, HOLD = 2, 20e-6
SIZES = (1, 10, 100, 1000)
BIGGEST = SIZES[-1]

#: Seconds before the span begins, in which the processes meet and all get in line.
LEAD = 0.25

#: Each with its event loop, and whether all coroutines share one handle.
VARIANTS: dict[str, tuple[str, Callable[[str], AsyncHandle], bool]] = {
    **{f"shm_async, {loop}": (loop, peers.ours, True) for loop in LOOPS},
    peers.NAIVE: ("asyncio", peers.naive, False),
    peers.NAIVE_UNLIMITED: ("asyncio", peers.naive_unlimited, False),
    peers.ASYNC_FILE_LOCK: ("asyncio", peers.async_file_lock, False),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What one process saw."""

    seconds: float
    holds: list[int]  # by coroutine
    waits: list[float]
    threads: int  # beyond those that it had before
    kilobytes: int  # beyond those that it had before


COLUMNS = (
    "each",
    "holds/s",
    "wait p50 ms",
    "wait p99 ms",
    "smaller share",
    "spread",
    "threads",
    "MiB",
)

NOTES = (
    "spread: holds of the best served coroutine minus those of the worst, in one process",
    f"{peers.AIORWLOCK}, sync peers: no crowd (one process only; threads, not coroutines)",
)


def run(bench: Bench, report: Report) -> Outcome:
    rounds, seconds = bench.pick(1, 3), 0.5 if bench.quick else 1.0
    variants = {
        f"{who}, {size}": partial(crowd, bench, who, size, seconds)
        for who in VARIANTS
        for size in SIZES
    }
    found = interleave(variants, rounds, report)
    outcome = Outcome("A crowd: coroutines in each of 2 processes, 20 µs a hold")
    table = Table(outcome.title, COLUMNS)
    rates: dict[str, list[Cell]] = {who: [] for who in VARIANTS}
    for who in VARIANTS:
        for size in SIZES:
            several = found[f"{who}, {size}"]
            waits = sorted(wait for both in several for facts in both for wait in facts.waits)
            outcome.samples[f"{who}, {size}: wait"] = summarise(waits)
            rate = statistics.median(map(holds_a_second, several))
            rates[who].append(rate or "none")
            table.add(
                who,
                size,
                rate,
                *(quantile(waits, part) * 1e3 if waits else "none" for part in (0.5, 0.99)),
                statistics.median(map(smaller_share, several)),
                max(map(spread, several)),
                max(facts.threads for both in several for facts in both),
                max(facts.kilobytes for both in several for facts in both) / 1024,
            )
    outcome.tables.append(table)
    for who in VARIANTS:
        if who.startswith("shm_async"):
            outcome.targets += targets(who, found[f"{who}, {BIGGEST}"])
    axes = ("coroutines in each process", "holds a second, both together")
    outcome.charts.append(Lines("crowd", outcome.title, *axes, SIZES, list(rates.items())))
    outcome.notes += NOTES
    return outcome


def targets(who: str, several: list[list[Facts]]) -> list[Target]:
    what = f"{who}, {BIGGEST} x {PROCESSES}"
    threads = max(facts.threads for both in several for facts in both)
    rate = statistics.median(map(holds_a_second, several))
    share = statistics.median(map(smaller_share, several))
    return [
        Target(f"{what}: holds a second", rate, ">=", 20_000),
        Target(f"{what}: smaller share", share, ">=", 0.45),
        Target(f"{what}: coroutines within", max(map(spread, several)), "<=", 3, "holds"),
        Target(f"{what}: extra threads", threads, "<=", 1),
    ]


def holds_a_second(both: list[Facts]) -> float:
    return sum(sum(facts.holds) / facts.seconds for facts in both)


def smaller_share(both: list[Facts]) -> float:
    holds = [sum(facts.holds) for facts in both]
    return min(holds) / sum(holds) if any(holds) else 0.0


def spread(both: list[Facts]) -> int:
    return max(max(facts.holds) - min(facts.holds) for facts in both)


def crowd(bench: Bench, who: str, size: int, seconds: float) -> list[Facts]:
    """One run of both processes."""
    name = bench.place.name()
    arguments = (who, name, size, seconds)
    with members(member, [arguments] * PROCESSES, bench.build) as both:
        for each in both:
            assert each.receive() == "ready"
        start = time.monotonic() + LEAD
        for each in both:
            each.pipe.send(start)
        return [each.receive() for each in both]


# ---- a member ----------------------------------------------------------------------


def member(pipe: Pipe, who: str, name: str, size: int, seconds: float) -> None:
    loop, maker, shared = VARIANTS[who]
    run_loop(loop, be_a_crowd, pipe, maker, shared, name, size, seconds)


async def be_a_crowd(
    pipe: Pipe,
    maker: Callable[[str], AsyncHandle],
    shared: bool,
    name: str,
    size: int,
    seconds: float,
) -> None:
    first = maker(name)
    handles = [first if shared else maker(name) for _ in range(size)]
    before = kilobytes()
    holds = [0] * size
    waits: list[float] = []
    started = anyio.Event()

    async def one(number: int) -> NoReturn:
        lock = handles[number].write
        clock = time.perf_counter
        await started.wait()
        while True:
            asked = clock()
            async with lock():
                inside = clock()
                waits.append(inside - asked)
                while clock() < inside + HOLD:
                    pass
                holds[number] += 1

    async with anyio.create_task_group() as group:
        for number in range(size):
            group.start_soon(one, number)
        await anyio.lowlevel.checkpoint()
        pipe.send("ready")
        arguments = (pipe, pipe.recv(), seconds, holds, waits, before)
        threading.Thread(target=observe, args=arguments, daemon=True).start()
        started.set()


def observe(
    pipe: Pipe, start: float, seconds: float, holds: list[int], waits: list[float], before: int
) -> None:
    """Tell how far all have come in the span; the loop may be too busy to do that."""
    sleep_until(start)
    begun, holds_then, waits_then = time.monotonic(), holds[:], len(waits)
    sleep_until(start + seconds)
    pipe.send(
        Facts(
            time.monotonic() - begun,
            [now - then for now, then in zip(holds, holds_then, strict=True)],
            waits[waits_then:],
            len(os.listdir("/proc/self/task")) - 2,  # the loop's and this one
            kilobytes() - before,
        )
    )


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def kilobytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
