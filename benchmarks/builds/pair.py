"""The cost of a free lock in two builds, to within 1 %.

Two processes, one for each build, stay on the same CPU and take turns: a slice of some
hundred pairs in the one, then the same in the other. Both slices of a turn meet the same
noise, so their ratio hardly has any. A process keeps the luck that its addresses bring it,
good or bad, for as long as it lives: so every round begins with fresh processes.
"""

import asyncio
import os
import statistics
import threading
from typing import NoReturn

from benchmarks.builds.figures import Figure, Paired
from benchmarks.outcome import Bench
from benchmarks.peers import AsyncHandle
from benchmarks.processes import Member, Pipe, members
from benchmarks.scenario_pair import Measure, async_pairs, in_loop, second_reader, sync_pairs
from shm_async import Region

ASYNC_WRITE, ASYNC_READ = "async with, write", "async with, read"
SECOND_READER = "async with, second reader"
SYNC_WRITE, SYNC_READ = "with, write", "with, read"
BUSY = "with, write, beside a thread that computes"
KINDS = (ASYNC_WRITE, ASYNC_READ, SECOND_READER, SYNC_WRITE, SYNC_READ, BUSY)

FIGURES = tuple(Figure(kind, "µs a pair", "less") for kind in KINDS)

#: Acquire and release, so often in one slice; slices of each kind in one round.
PAIRS, SLICES = 500, 30

#: As many times the pairs beside a busy thread: they last for several of its turns, of 5 ms.
LONGER = 20


def play(benches: tuple[Bench, Bench]) -> dict[str, Paired]:
    """One round; the first bench's process is started, and begins, first."""
    cpu = max(os.sched_getaffinity(0))
    first, second = ([(bench.place.name(), cpu)] for bench in benches)
    with (
        members(member, first, benches[0].build) as [one],
        members(member, second, benches[1].build) as [other],
    ):
        for each in (one, other):
            each.receive()
        return {kind: compare(one, other, kind) for kind in KINDS}


def compare(one: Member, other: Member, kind: str) -> Paired:
    """Return microseconds a pair of both, and the median of other / one over the turns."""
    ones: list[float] = []
    others: list[float] = []
    for number in range(SLICES + 1):
        for each, times in ((one, ones), (other, others))[:: 1 if number % 2 else -1]:
            seconds = each.ask((kind, PAIRS))
            if number:  # the first slice warms up
                times.append(seconds * 1e6)
    ratio = statistics.median(b / a for a, b in zip(ones, others, strict=True))
    return Paired(statistics.median(ones), statistics.median(others), ratio)


def member(pipe: Pipe, name: str, cpu: int) -> NoReturn:
    os.sched_setaffinity(0, {cpu})
    with Region.create(name, 64) as region:
        variants = kinds(asyncio.new_event_loop(), AsyncHandle(region.write_lock, region.read_lock))
        variants[SYNC_WRITE] = sync_pairs(region.write_lock)
        variants[SYNC_READ] = sync_pairs(region.read_lock)
        variants[BUSY] = beside_a_busy_thread(sync_pairs(region.write_lock))
        pipe.send("ready")
        while True:
            kind, pairs = pipe.recv()
            pipe.send(variants[kind](pairs))


def beside_a_busy_thread(measure: Measure) -> Measure:
    """Measure while another thread of the process computes, and wants the GIL all the time."""

    def measure_beside(pairs: int) -> float:
        over = threading.Event()
        thread = threading.Thread(target=compute, args=(over,))
        thread.start()
        try:
            return measure(LONGER * pairs)
        finally:
            over.set()
            thread.join()

    return measure_beside


def compute(over: threading.Event) -> None:
    while not over.is_set():
        sum(range(100))


def kinds(loop: asyncio.AbstractEventLoop, handle: AsyncHandle) -> dict[str, Measure]:
    """The kinds of `async with`."""
    assert handle.read is not None
    return {
        ASYNC_WRITE: in_loop(loop, async_pairs, handle.write),
        ASYNC_READ: in_loop(loop, async_pairs, handle.read),
        SECOND_READER: in_loop(loop, second_reader, handle.read, handle.read),
    }
