"""import: how long `import shm_async` takes, and the first use of a region's class.

Measured: what ``-X importtime`` reports for each module that a fresh interpreter imports after its
own start, without cffi's; everything is in the page cache. Not measured: the start itself. On a
busy machine trust the ratio, and the lowest of many runs.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.outcome import Bench, Outcome, Table, Target

OURS, BASE = "shm_async", "asyncio"
PROGRAMS = {
    OURS: "import shm_async",
    "shm_async, Region": "from shm_async import Region",
    BASE: "import asyncio",
    "asyncio and anyio": "import asyncio, anyio",
    "multiprocessing.shared_memory": "import multiprocessing.shared_memory",
    "filelock": "import filelock",
}
COLUMNS = ("ms, lowest", "ms, median", f"x {BASE}", "modules")
LAST_OF_START = "site"
CFFI = ("cffi", "_cffi_backend")


def run(bench: Bench, report: Report) -> Outcome:
    rounds = bench.pick(15, 51)
    variants = {who: partial(imported, program) for who, program in PROGRAMS.items()}
    for each in variants.values():
        each()  # writes what is missing of the bytecode
    outcome = Outcome("Importing")
    table = Table(f"{outcome.title}, {rounds} runs", COLUMNS)
    outcome.tables.append(table)
    found = interleave(variants, rounds, report)
    base = [seconds for seconds, _ in found[BASE]]
    for who, several in found.items():
        times = [seconds for seconds, _ in several]
        outcome.samples[who] = summarise(times)
        median = statistics.median(times) * 1e3
        modules = max(number for _, number in several)
        table.add(who, min(times) * 1e3, median, median_ratio(times, base), modules)
        if who == OURS:
            outcome.targets.append(Target(f"import {who}", median, "<=", 15, "ms"))
    return outcome


def imported(program: str) -> tuple[float, int]:
    """Return the seconds in the modules that the program imports, and how many these are."""
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    times = list(times_of(done.stderr))
    return sum(times), len(times)


def times_of(log: str) -> Iterator[float]:
    """Yield the seconds of each module alone, after those of the start."""
    started = False
    for line in log.splitlines():
        if not line.startswith("import time:"):
            continue
        alone, _, name = line.removeprefix("import time:").split("|")
        name = name.strip()
        if started and name.partition(".")[0] not in CFFI:
            yield int(alone) / 1e6
        started = started or name == LAST_OF_START
