"""open: making a block of shared memory, and attaching to one, by its size.

Measured: one create or one attach, from the call until the memory is mapped; closing and
unlinking is outside the clock, and no page is touched by us. Ours reserves the memory, so
that a full /dev/shm is an error and never a SIGBUS: that is what takes long for big
blocks. The like of it is "raw, reserved"; "reserve=False" is the like of the others.
"""

import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.memory import MIB, lack_of_room, size_name
from benchmarks.outcome import Bars, Bench, Cell, Outcome, Table
from benchmarks.place import SHM, Place
from benchmarks.processes import in_child
from shm_async import Region

SIZES = (MIB, 64 * MIB, 1024 * MIB)
CREATE, ATTACH = "create", "attach"
RAW = "raw shm_open, ftruncate, mmap"

Times = dict[tuple[str, str, int], list[float]]

#: Makes a name's block or attaches to it, inside the clock, and lets go of it, outside.
Way = Callable[[str, int], AbstractContextManager[object]]


def run(bench: Bench, report: Report) -> Outcome:
    lacks = {size: lack_of_room(size) for size in SIZES}
    sizes = [size for size in SIZES if lacks[size] is None]
    rounds = bench.pick(10, 40)
    times: Times = in_child(report, measure, bench.place, sizes, rounds)
    outcome = Outcome("Creating a region and attaching to one")
    for action, ways in WAYS.items():
        columns = [f"{size_name(size)}: {unit}" for size in SIZES for unit in ("µs", "x raw")]
        table = Table(f"{action}, median", tuple(columns))
        outcome.tables.append(table)
        for who in ways:
            cells: list[Cell] = []
            for size in SIZES:
                if reason := lacks[size]:
                    cells += [f"skipped: {reason}", ""]
                    continue
                values = times[action, who, size]
                outcome.samples[f"{action}, {who}, {size_name(size)}"] = summarise(values)
                ratio = median_ratio(values, times[action, RAW, size])
                cells += [statistics.median(values) * 1e6, ratio]
            table.add(who, *cells)
        outcome.charts.append(
            Bars(
                f"open-{action}",
                f"{action.capitalize()} 64 MiB of shared memory",
                "µs, median",
                [(who, cells[2]) for who, cells in table.rows],
                log=True,
            )
        )
    outcome.notes += [
        f"{size_name(size)} skipped: {reason}" for size, reason in lacks.items() if reason
    ]
    outcome.notes.append(f"{rounds} rounds; blocks of 1 GiB get {few(rounds)}")
    return outcome


def few(rounds: int) -> int:
    return max(3, rounds // 5)


# ---- in the measuring process ----------------------------------------------------------


def measure(report: Report, place: Place, sizes: list[int], rounds: int) -> Times:
    times: Times = {}
    for size in sizes:
        variants = {
            f"{action}, {who}": partial(timed, place, action, way, size)
            for action, ways in WAYS.items()
            for who, way in ways.items()
        }
        number = few(rounds) if size == SIZES[-1] else rounds
        part = sizes.index(size) / len(sizes)

        def tell(label: str, share: float, part: float = part, size: int = size) -> None:
            report(f"{size_name(size)}: {label}", part + share / len(sizes))

        for key, values in interleave(variants, number, tell).items():
            action, _, who = key.partition(", ")
            times[action, who, size] = values
    return times


def timed(place: Place, action: str, way: Way, size: int) -> float:
    name = place.name()
    if action == ATTACH:
        with raw(name, size) if way is not attach_ours else ours(name, size):
            try:
                return clocked(way, name, size)
            finally:
                os.unlink(f"{SHM}/{name}")
    try:
        return clocked(way, name, size)
    finally:
        os.unlink(f"{SHM}/{name}")


def clocked(way: Way, name: str, size: int) -> float:
    start = time.perf_counter()
    with way(name, size):
        return time.perf_counter() - start


def ours(name: str, size: int) -> Region:
    return Region.create(name, size)


def ours_sparse(name: str, size: int) -> Region:
    return Region.create(name, size, reserve=False)


def attach_ours(name: str, size: int) -> Region:
    return Region.attach(name, size)


@contextmanager
def shared_memory(name: str, size: int, *, create: bool = True) -> Iterator[object]:
    """CPython's, without the process that tracks it where that can be turned off."""
    if sys.version_info >= (3, 13):
        memory = SharedMemory(name, create=create, size=size, track=False)
    else:
        memory = SharedMemory(name, create=create, size=size)
        resource_tracker.unregister(f"/{name}", "shared_memory")
    try:
        yield memory
    finally:
        memory.close()


@contextmanager
def raw(
    name: str, size: int, *, flags: int = os.O_CREAT | os.O_EXCL, reserve: bool = False
) -> Iterator[object]:
    """What shm_open(3) does is an open(2) in /dev/shm."""
    fd = os.open(f"{SHM}/{name}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        if flags:
            os.ftruncate(fd, size)
        if reserve:
            os.posix_fallocate(fd, 0, size)
        memory = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    with memory:
        yield memory


WAYS: dict[str, dict[str, Way]] = {
    CREATE: {
        RAW: raw,
        "raw, reserved (posix_fallocate)": partial(raw, reserve=True),
        "multiprocessing.SharedMemory": shared_memory,
        "shm_async": ours,
        "shm_async, reserve=False": ours_sparse,
    },
    ATTACH: {
        RAW: partial(raw, flags=0),
        "multiprocessing.SharedMemory": partial(shared_memory, create=False),
        "shm_async": attach_ours,
    },
}
