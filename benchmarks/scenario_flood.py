"""flood: one writer against readers that never pause: 2 processes x 8 readers, 1 ms each.

Measured: how long each write lock took to get, asked for every 20 ms or so by a third
process, and how many read holds all readers had in the same time with and without the
writer. A writer that gets nothing in the whole span is reported as such.
Not measured: readers' waits one by one, nor writers among themselves.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import anyio
import anyio.lowlevel

from benchmarks import peers
from benchmarks.harness import Report, interleave, summarise
from benchmarks.loops import run as run_loop
from benchmarks.outcome import Bars, Bench, Outcome, Table, Target
from benchmarks.peers import AsyncHandle, SyncHandle
from benchmarks.place import board
from benchmarks.processes import Member, Pipe, StuckError, members

PROCESSES, READERS, HOLD, PAUSE = 2, 8, 0.001, 0.02

OURS = "shm_async, asyncio"
ASYNC: dict[str, tuple[str, Callable[[str], AsyncHandle]]] = {
    OURS: ("asyncio", peers.ours),
    "shm_async, trio": ("trio", peers.ours),
    peers.ASYNC_RW_LOCK: ("asyncio", peers.async_read_write_lock),
}
SYNC: dict[str, Callable[[str], SyncHandle]] = {
    "shm_async, with, in threads": peers.ours_sync,
    "fcntl.flock, in threads": peers.flock_sync,
    "portalocker, in threads": peers.portalocker_sync,
}
REASONS = {
    peers.ASYNC_FILE_LOCK: "no readers",
    peers.FASTENERS: "one reader per process",
    peers.AIORWLOCK: "one process only",
}

#: Waits of the writer, and read holds a second without and with it.
Flood = tuple[list[float], float, float]


def run(bench: Bench, report: Report) -> Outcome:
    rounds, seconds = bench.pick(1, 3), 1.5 if bench.quick else 2.0
    variants = {who: partial(flood, bench, who, seconds) for who in (*ASYNC, *SYNC)}
    found: dict[str, list[Flood]] = interleave(variants, rounds, report)
    outcome = Outcome("A writer in a flood of 2 x 8 readers, 1 ms each")
    columns = ("wait p50 ms", "wait p99 ms", "longest ms", "writes", "reads/s alone", "pace kept")
    table = Table(outcome.title, columns)
    outcome.tables.append(table)
    for who, floods in found.items():
        facts = outcome.samples[f"{who}: wait"] = summarise(w for each in floods for w in each[0])
        alone = statistics.median(each[1] for each in floods)
        kept = statistics.median(each[2] / each[1] if each[1] else 0.0 for each in floods)
        if facts is None:
            table.add(who, f"no write in {rounds * seconds:g} s", "", "", 0, alone, kept)
            continue
        waits = [each * 1e3 for each in (facts.median, facts.p99, facts.highest)]
        table.add(who, *waits, facts.count, alone, kept)
        if who.startswith("shm_async"):
            outcome.targets += [
                Target(f"{who}: writer's wait p50", waits[0], "<=", 3, "ms"),
                Target(f"{who}: writer's wait p99", waits[1], "<=", 15, "ms"),
                Target(f"{who}: readers keep of their pace", kept, ">=", 0.8),
            ]
    for who, reason in REASONS.items():
        table.add(who, reason, *[""] * 5)
    outcome.charts.append(
        Bars(
            "flood",
            outcome.title,
            "ms that the writer waited: median, line up to p99",
            [(who, cells[0]) for who, cells in table.rows if who not in REASONS],
            [
                cells[1] if isinstance(cells[1], float) else None
                for who, cells in table.rows
                if who not in REASONS
            ],
            log=True,
        )
    )
    return outcome


def flood(bench: Bench, who: str, seconds: float) -> Flood:
    name = bench.place.name()
    numbered = [(who, name, number) for number in range(PROCESSES)]
    with (
        board(name) as reads,
        members(writer, [(who, name)], bench.build) as [one],
        contextlib.ExitStack() as stack,
    ):
        one.receive()  # it has locked once, which some locks do not grant among readers
        for each in stack.enter_context(members(reader, numbered, bench.build)):
            each.receive()
        time.sleep(0.2)  # all readers are at it
        alone = pace(reads, lambda: time.sleep(seconds))
        waits: list[float] = []
        one.pipe.send("go")
        together = pace(reads, lambda: waits.extend(collect(one, seconds)))
    return waits, alone, together


def pace(reads: memoryview, during: Callable[[], object]) -> float:
    """Read holds a second while `during` runs."""
    start, before = time.monotonic(), sum(reads)
    during()
    return (sum(reads) - before) / (time.monotonic() - start)


def collect(one: Member, seconds: float) -> list[float]:
    """What the writer tells within that time. It may be stuck for ever."""
    waits = []
    end = time.monotonic() + seconds
    with contextlib.suppress(StuckError):
        while (left := end - time.monotonic()) > 0:
            waits.append(one.receive(left))
    return waits


# ---- the members -------------------------------------------------------------------


def reader(pipe: Pipe, who: str, name: str, number: int) -> None:
    with board(name) as reads:
        cells = reads[number * READERS : (number + 1) * READERS]  # one per reader
        if who in ASYNC:
            loop, maker = ASYNC[who]
            run_loop(loop, read_as_tasks, pipe, maker, name, cells)
        else:
            read_as_threads(pipe, SYNC[who], name, cells)


async def read_as_tasks(
    pipe: Pipe, maker: Callable[[str], AsyncHandle], name: str, cells: memoryview
) -> None:
    lock = maker(name).read
    assert lock is not None

    async def read(number: int) -> NoReturn:
        while True:
            async with lock():
                await anyio.sleep(HOLD)
            cells[number] += 1

    async with anyio.create_task_group() as group:
        for number in range(READERS):
            group.start_soon(read, number)
        await anyio.lowlevel.checkpoint()
        pipe.send("ready")


def read_as_threads(
    pipe: Pipe, maker: Callable[[str], SyncHandle], name: str, cells: memoryview
) -> None:
    def read(number: int) -> NoReturn:
        lock = maker(name).read
        assert lock is not None
        while True:
            with lock():
                time.sleep(HOLD)
            cells[number] += 1

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(READERS)]
    for thread in threads:
        thread.start()
    pipe.send("ready")
    threads[0].join()


def writer(pipe: Pipe, who: str, name: str) -> None:
    if who in ASYNC:
        loop, maker = ASYNC[who]
        run_loop(loop, write_as_task, pipe, maker, name)
        return
    lock = SYNC[who](name).write
    with lock():  # the first time it imports what it needs
        pipe.send("ready")
    pipe.recv()
    while True:
        asked = time.perf_counter()
        with lock():
            waited = time.perf_counter() - asked
        pipe.send(waited)
        time.sleep(PAUSE)


async def write_as_task(pipe: Pipe, maker: Callable[[str], AsyncHandle], name: str) -> NoReturn:
    lock = maker(name).write
    async with lock():  # the first time it imports what it needs
        pipe.send("ready")
    pipe.recv()
    while True:
        asked = time.perf_counter()
        async with lock():
            waited = time.perf_counter() - asked
        pipe.send(waited)
        await anyio.sleep(PAUSE)
