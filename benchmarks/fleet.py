"""Processes that count under one lock, for as many spans as one likes.

Each process has some workers, coroutines or threads: acquire, add one to the counter, stay for
the time of a hold, release, and again at once. Between two spans they rest, so fleets can
take turns. A hold is busy: it spins, as a short update of shared memory does.

Each process stays on a CPU, in turn. Otherwise a busy machine, and sometimes an idle one, runs
two of them on the same CPU, one after the other: they hardly meet then, and count ten times
as fast as processes that run at the same time.
"""

import asyncio
import os
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

import anyio

from benchmarks.counter_variants import VARIANTS, Coroutines, Threads
from benchmarks.loops import run as run_loop
from benchmarks.peers import AsyncLock, SyncLock
from benchmarks.place import board
from benchmarks.processes import Member, Pipe, members

H = TypeVar("H")

#: Seconds before a span is measured, in which all workers get in line.
LEAD = 0.15

#: A process tells of no more waits than these, taken at random.
MOST_WAITS = 20_000

COUNTER = 0  # its cell of the board


@dataclass(frozen=True, slots=True)
class Order:
    """What the members do next: count from now on, and measure from `start` on."""

    start: float  # time.monotonic()
    seconds: float
    hold: float  # seconds


@dataclass(frozen=True, slots=True)
class Facts:
    """What one process saw in a span."""

    seconds: float
    holds: int
    waits: "array[float]"
    cpu: float  # seconds
    total: int  # increments since it began, those before and after the spans included


class Fleet:
    """The processes of one variant, all ready."""

    def __init__(self, counting: list[Member], cells: memoryview) -> None:
        self._members = counting
        self._cells = cells

    def span(self, hold: float, seconds: float) -> list[Facts]:
        """Count for so many seconds, with holds of `hold` seconds."""
        self.begin(hold, seconds)
        return self.facts()

    def begin(self, hold: float, seconds: float) -> Order:
        """Let all begin. The caller may look at something else meanwhile, then at `facts`."""
        order = Order(time.monotonic() + LEAD, seconds, hold)
        for member in self._members:
            member.pipe.send(order)
        return order

    def facts(self) -> list[Facts]:
        """Return the facts of each when all rest again."""
        return [member.receive() for member in self._members]

    def lost(self, facts: Sequence[Facts]) -> int:
        """How many increments of all spans are missing, told by those of the last one."""
        return sum(each.total for each in facts) - self._cells[COUNTER]


@contextmanager
def fleet(
    who: str,
    name: str,
    processes: int,
    workers: int,
    lent: object = None,
    build: str | None = None,
) -> Iterator[Fleet]:
    """Start the processes of the variant `who`; `lent` is what it needs."""
    cpus = sorted(os.sched_getaffinity(0))
    each_on_a_cpu = [
        (who, name, workers, lent, cpus[number % len(cpus)]) for number in range(processes)
    ]
    with (
        board(name) as cells,
        members(member, each_on_a_cpu, build) as counting,
    ):
        for each in counting:
            each.receive()
        yield Fleet(counting, cells)


# ---- a member ------------------------------------------------------------------------


@dataclass(slots=True)
class Span:
    """What the workers of one process share. Invariant: `holds` has a cell for each worker."""

    cells: memoryview
    holds: list[int]
    waits: list[float] = field(default_factory=list)
    hold: float = 0.0
    over: bool = True


def member(pipe: Pipe, who: str, name: str, workers: int, lent: object, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    variant = VARIANTS[who]
    with board(name) as cells:
        span = Span(cells, [0] * workers)
        if isinstance(variant, Threads):
            be_threads(pipe, variant, name, lent, span)
        else:
            run_loop(variant.loop, be_coroutines, pipe, variant, name, lent, span)


def handles(make: Callable[[], H], shared: bool, workers: int) -> list[H]:
    first = make()
    return [first if shared or number == 0 else make() for number in range(workers)]


def be_threads(pipe: Pipe, variant: Threads, name: str, lent: object, span: Span) -> NoReturn:
    made = handles(lambda: variant.maker(name, lent), variant.shared, len(span.holds))
    pipe.send("ready")
    while True:
        with measured(pipe, pipe.recv(), span):
            threads = [
                threading.Thread(target=count_in_thread, args=(handle.write, number, span))
                for number, handle in enumerate(made)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


async def be_coroutines(
    pipe: Pipe, variant: Coroutines, name: str, lent: object, span: Span
) -> NoReturn:
    made = handles(lambda: variant.maker(name, lent), variant.shared, len(span.holds))
    pipe.send("ready")
    while True:
        order = pipe.recv()  # nobody else needs the loop just now
        with measured(pipe, order, span):
            async with anyio.create_task_group() as group:
                for number, handle in enumerate(made):
                    group.start_soon(count_in_loop, handle.write, number, span, variant.polite)


@contextmanager
def measured(pipe: Pipe, order: Order, span: Span) -> Iterator[None]:
    """Let the workers run in the block until the span is over, and tell its facts."""
    span.hold, span.over = order.hold, False
    span.waits.clear()
    found: list[Facts] = []
    observer = threading.Thread(target=observe, args=(order, span, found), daemon=True)
    observer.start()
    yield
    observer.join()
    [facts] = found
    total = sum(span.holds)
    pipe.send(Facts(facts.seconds, facts.holds, facts.waits, facts.cpu, total))


def observe(order: Order, span: Span, found: list[Facts]) -> None:
    """Look at the beginning and at the end: the loop may be too busy to do that."""
    sleep_until(order.start)
    begun, holds, waits = time.monotonic(), sum(span.holds), len(span.waits)
    cpu = time.process_time()
    sleep_until(order.start + order.seconds)
    seconds, now = time.monotonic() - begun, sum(span.holds)
    seen = span.waits[waits:]
    span.over = True
    cpu = time.process_time() - cpu
    kept = seen if len(seen) <= MOST_WAITS else random.sample(seen, MOST_WAITS)
    found.append(Facts(seconds, now - holds, array("d", kept), cpu, now))


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


async def count_in_loop(lock: AsyncLock, number: int, span: Span, polite: bool) -> None:
    clock, cells, holds, waits, hold = read(span)
    while not span.over:
        asked = clock()
        async with lock():
            inside = clock()
            cells[COUNTER] += 1
            if hold:
                while clock() < inside + hold and not span.over:
                    pass
        holds[number] += 1
        waits.append(inside - asked)
        if polite:
            await asyncio.sleep(0)


def count_in_thread(lock: SyncLock, number: int, span: Span) -> None:
    clock, cells, holds, waits, hold = read(span)
    while not span.over:
        asked = clock()
        with lock():
            inside = clock()
            cells[COUNTER] += 1
            if hold:
                while clock() < inside + hold and not span.over:
                    pass
        holds[number] += 1
        waits.append(inside - asked)


def read(
    span: Span,
) -> tuple[Callable[[], float], memoryview, list[int], list[float], float]:
    """What a worker uses often, as local names: the locks are fast."""
    return time.perf_counter, span.cells, span.holds, span.waits, span.hold
