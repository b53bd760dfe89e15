"""`bench`: the cost of the lock on this machine, in a few seconds."""

import asyncio
import fcntl
import os
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import Region
from .facts import print_json
from .table import Column, print_table

__all__ = ["bench"]

ROUNDS = 5
COLUMNS = (
    Column("WHAT"),
    Column("MICROSECONDS", right=True),
    Column("TIMES FLOCK", 1, right=True),
)

#: Does something so often, and returns the seconds that it took.
Task = Callable[[int], float]


def bench(options: Namespace) -> int:
    """Measure all of them in turn, several times, and print the medians."""
    with _region() as region:
        tasks = _tasks(region)
        sizes = {name: _size(task, options.seconds / ROUNDS) for name, task in tasks.items()}
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(ROUNDS):
            for name, task in tasks.items():
                times[name].append(task(sizes[name]) / sizes[name] * 1e6)
        medians = {name: statistics.median(found) for name, found in times.items()}
        medians["the same in two processes at once, for each write"] = _hand_over(
            region, options.seconds
        )
    flock = medians["flock(2), exclusive and unlock"]
    if options.json:
        print_json(
            [
                {"what": name, "microseconds": time_, "times_flock": time_ / flock}
                for name, time_ in medians.items()
            ]
        )
        return 0
    rows = [[name, f"{time_:.2f}", f"{time_ / flock:.1f}"] for name, time_ in medians.items()]
    print_table(COLUMNS, rows)
    return 0


@contextmanager
def _region() -> Iterator[Region]:
    with Region.create(f"shm-async-bench-{os.getpid()}", 8, dtype="uint64") as region:
        try:
            yield region
        finally:
            region.unlink()


def _size(task: Task, seconds: float) -> int:
    """Return the number of repetitions that take about `seconds`."""
    count = 10
    while (passed := task(count)) < seconds / 4 and count < 10**7:
        count *= 2
    return max(10, int(count * seconds / max(passed, 1e-9)))


def _tasks(region: Region) -> dict[str, Task]:
    return {
        "flock(2), exclusive and unlock": lambda count: _flock(region, count),
        "with region.write_lock()": lambda count: _write(region, count),
        "with region.read_lock()": lambda count: _read(region, count),
        "async with region.write_lock()": lambda count: asyncio.run(_write_async(region, count)),
        "async with asyncio.Lock(), for comparison": lambda count: asyncio.run(_lock_async(count)),
        "region.snapshot(), 64 bytes": lambda count: _snapshot(region, count),
    }


def _flock(region: Region, count: int) -> float:
    fd = os.open(f"/dev/shm/{region.name}", os.O_RDWR | os.O_CLOEXEC)
    try:
        start = time.perf_counter()
        for _ in range(count):
            fcntl.flock(fd, fcntl.LOCK_EX)
            fcntl.flock(fd, fcntl.LOCK_UN)
        return time.perf_counter() - start
    finally:
        os.close(fd)


def _write(region: Region, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        with region.write_lock():
            pass
    return time.perf_counter() - start


def _read(region: Region, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        with region.read_lock():
            pass
    return time.perf_counter() - start


async def _write_async(region: Region, count: int) -> float:
    async with region.write_lock():  # what an event loop needs once
        pass
    start = time.perf_counter()
    for _ in range(count):
        async with region.write_lock():
            pass
    return time.perf_counter() - start


async def _lock_async(count: int) -> float:
    lock = asyncio.Lock()
    start = time.perf_counter()
    for _ in range(count):
        async with lock:
            pass
    return time.perf_counter() - start


def _snapshot(region: Region, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        region.snapshot()
    return time.perf_counter() - start


def _hand_over(region: Region, seconds: float) -> float:
    """Let two processes count as fast as they can. Return the microseconds for each count."""
    before = region.buffer[0]
    pid = os.fork()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            with region.write_lock() as view:
                view[0] += 1
    finally:
        if pid == 0:
            os._exit(0)
    os.waitpid(pid, 0)
    return seconds / max(1, region.buffer[0] - before) * 1e6
