"""copy: bandwidth of copying into a region's view, against memcpy between private buffers.

Measured: copies of 1 MiB and 64 MiB by one thread, all pages touched before. The view is
taken once, so the lock is not in the figure. A private buffer may sit on huge pages,
where the kernel gives them; shared memory has them only if the host turned that on.
"""

import ctypes
import time
from collections.abc import Callable

import numpy as np

from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.memory import MIB, lack_of_room, size_name
from benchmarks.outcome import Bars, Bench, Cell, Outcome, Table
from benchmarks.processes import in_child
from shm_async import Region

SIZES = (MIB, 64 * MIB)
PRIVATE = "ctypes.memmove, private to private"

#: Bytes that one variant copies in one round.
ROUND = 64 * MIB


def run(bench: Bench, report: Report) -> Outcome:
    outcome = Outcome("Copying into a region's view")
    table = Table(
        outcome.title,
        tuple(f"{size_name(size)}: {unit}" for size in SIZES for unit in ("GB/s", "x private")),
    )
    outcome.tables.append(table)
    rows: dict[str, list[Cell]] = {}
    for number, size in enumerate(SIZES):
        if reason := lack_of_room(size):
            for cells in rows.values():
                cells += [f"skipped: {reason}", ""]
            outcome.notes.append(f"{size_name(size)} skipped: {reason}")
            continue

        def tell(label: str, share: float, number: int = number) -> None:
            report(label, (number + share) / len(SIZES))

        times: dict[str, list[float]] = in_child(
            tell, measure, bench.place.name(), size, bench.pick(12, 60)
        )
        for who, values in times.items():
            speed = summarise(size / value / 1e9 for value in values)
            assert speed is not None
            outcome.samples[f"{who}, {size_name(size)}"] = speed
            ratio = median_ratio(times[PRIVATE], values)
            rows.setdefault(who, []).extend([speed.median, ratio])
    for who, cells in rows.items():
        table.add(who, *cells)
    outcome.charts.append(
        Bars(
            "copy",
            f"{outcome.title}: {size_name(SIZES[-1])}",
            "GB/s, median",
            [(who, cells[2]) for who, cells in table.rows],
        )
    )
    return outcome


def measure(report: Report, name: str, size: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per copy."""
    with Region.create(name, size) as region, region.write_lock() as view:
        source, target = bytearray(b"x" * size), bytearray(size)
        array, from_array = np.asarray(view), np.frombuffer(source, np.uint8)
        address = array.ctypes.data
        from_address = from_array.ctypes.data
        to_address = np.frombuffer(target, np.uint8).ctypes.data

        def slices() -> None:
            view[:] = source

        variants: dict[str, Callable[[], object]] = {
            PRIVATE: lambda: ctypes.memmove(to_address, from_address, size),
            "shm_async: view[:] = data": slices,
            "shm_async: numpy.copyto(view, data)": lambda: np.copyto(array, from_array),
            "shm_async: ctypes.memmove": lambda: ctypes.memmove(address, from_address, size),
        }
        copies = ROUND // size

        def timed(copy: Callable[[], object]) -> float:
            copy()
            start = time.perf_counter()
            for _ in range(copies):
                copy()
            return (time.perf_counter() - start) / copies

        runs = {who: (lambda copy=copy: timed(copy)) for who, copy in variants.items()}
        return interleave(runs, rounds, report)
