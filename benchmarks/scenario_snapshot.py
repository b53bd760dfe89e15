"""snapshot: a consistent copy of a region, and a transaction, against memcpy.

Measured: one call, by one thread, while nobody writes, all pages touched and in the cache.
memcpy is between private buffers, called through ctypes, which is 0.3 µs of it. The read
lock with a copy in it is what a snapshot saves; the write lock with a copy of
the whole region in it is what a transaction of one changed byte compares with.
"""

import ctypes
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.memory import MIB, size_name
from benchmarks.outcome import Bars, Bench, Cell, Outcome, Table, Target
from benchmarks.processes import in_child
from shm_async import Region

KIB = 1024
SIZES = (64, 64 * KIB, MIB)
MEMCPY = "ctypes.memmove, private to private"
SNAPSHOT = "shm_async: region.snapshot()"

#: Bytes that one variant copies in one round, and calls at most.
ROUND, MOST = 16 * MIB, 4000


def run(bench: Bench, report: Report) -> Outcome:
    outcome = Outcome("A consistent copy of a region")
    table = Table(
        outcome.title,
        tuple(f"{name_of(size)}: {unit}" for size in SIZES for unit in ("µs", "x memcpy")),
    )
    outcome.tables.append(table)
    rows: dict[str, list[Cell]] = {}
    for number, size in enumerate(SIZES):

        def tell(label: str, share: float, number: int = number, size: int = size) -> None:
            report(f"{name_of(size)}: {label}", (number + share) / len(SIZES))

        times: dict[str, list[float]] = in_child(
            tell, measure, bench.place.name(), size, bench.pick(30, 200)
        )
        for who, values in times.items():
            outcome.samples[f"{who}, {name_of(size)}"] = summarise(values)
            ratio = median_ratio(values, times[MEMCPY])
            rows.setdefault(who, []).extend([statistics.median(values) * 1e6, ratio])
    for who, cells in rows.items():
        table.add(who, *cells)
    small, large = rows[SNAPSHOT][0], rows[SNAPSHOT][3]
    assert isinstance(small, float)
    assert isinstance(large, float)
    outcome.targets += [
        Target("a snapshot of 64 bytes", small, "<", 1.5, "µs"),
        Target("a snapshot of 64 KiB", large, "<", 1.3, "x memcpy"),
    ]
    outcome.charts.append(
        Bars(
            "snapshot",
            "A consistent copy of 64 KiB",
            "µs, median",
            [(who, cells[2]) for who, cells in table.rows],
        )
    )
    return outcome


def name_of(size: int) -> str:
    return (
        f"{size} bytes" if size < KIB else f"{size // KIB} KiB" if size < MIB else size_name(size)
    )


def measure(report: Report, name: str, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per call."""
    with Region.create(name, size) as region:
        source, target = bytearray(b"x" * size), bytearray(size)
        region.buffer[:] = source
        from_address = np.frombuffer(source, np.uint8).ctypes.data
        to_address = np.frombuffer(target, np.uint8).ctypes.data

        def under_the_read_lock() -> None:
            with region.read_lock() as view:
                bytes(view)

        def under_the_write_lock() -> None:
            with region.write_lock() as view:
                view[:] = source

        def transaction() -> None:
            with region.transaction() as view:
                view[0] ^= 1

        variants: dict[str, Callable[[], object]] = {
            MEMCPY: lambda: ctypes.memmove(to_address, from_address, size),
            SNAPSHOT: region.snapshot,
            "shm_async: region.snapshot(into=buffer)": lambda: region.snapshot(into=target),
            "shm_async: read lock, bytes(view)": under_the_read_lock,
            "shm_async: write lock, view[:] = data": under_the_write_lock,
            "shm_async: transaction, one byte changed": transaction,
        }
        calls = min(MOST, ROUND // size)

        def timed(call: Callable[[], object]) -> float:
            call()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls

        runs = {who: (lambda call=call: timed(call)) for who, call in variants.items()}
        return interleave(runs, rounds, report)
