"""metrics: what exporting a region's figures each second costs a thread that does nothing but lock.

Measured: the mean time of an uncontended pair, acquire and release, over two seconds, in which the
figures are exported twice by another thread of the process; as a multiple of the same without
export, beside a thread that sleeps. That is the worst case: the pair is the cheapest there is, and
the thread never rests. Prometheus scrapes each 15 s or so. A row of its own has what a second
thread costs in itself: the kernel then counts the users of a descriptor in each system call.
Not measured: what imports cost.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.outcome import Bars, Bench, Outcome, Table, Target
from benchmarks.processes import in_child
from shm_async import Region
from shm_async.contrib.opentelemetry import instrument
from shm_async.contrib.prometheus import RegionCollector

BARE = "nothing exported"
ALONE = "nothing exported, no other thread"

#: Seconds of a slice, between two exports, and before the first one.
SLICE, PERIOD, FIRST = 2.0, 1.0, 0.5

#: Pairs between two looks at the clock.
PAIRS = 1000

#: What is exported during a slice.
Export = Callable[[], AbstractContextManager[object]]


def run(bench: Bench, report: Report) -> Outcome:
    names = bench.place.name(), bench.place.name()
    times: dict[str, list[float]] = in_child(report, measure, *names, bench.pick(4, 30))
    outcome = Outcome("A free lock while figures are exported each second")
    table = Table(outcome.title, ("median µs", "x nothing exported"))
    outcome.tables.append(table)
    for who, values in times.items():
        facts = summarise(values)
        assert facts is not None
        outcome.samples[who] = facts
        ratio = median_ratio(values, times[BARE])
        table.add(who, facts.median * 1e6, ratio)
        if who not in (BARE, ALONE):
            outcome.targets.append(Target(who, ratio, "<=", 1.03, "x nothing exported"))
    outcome.charts.append(
        Bars(
            "metrics",
            outcome.title,
            "multiples of a pair without export",
            [(who, cells[1]) for who, cells in table.rows],
        )
    )
    return outcome


# ---- in the measuring process ------------------------------------------------------


def measure(report: Report, name: str, table: str, rounds: int) -> dict[str, list[float]]:
    """Return seconds per pair, of each variant."""
    with Region.create(name, 64) as region:
        variants: dict[str, Export] = {
            ALONE: nullcontext,
            BARE: partial(each_second, lambda: None),
            "Prometheus": partial(prometheus, region, None),
            "Prometheus, shared table": partial(prometheus, region, table),
            "OpenTelemetry": partial(opentelemetry, region),
        }
        runs = {who: partial(seconds_per_pair, region, export) for who, export in variants.items()}
        return interleave(runs, rounds, report)


def seconds_per_pair(region: Region, export: Export) -> float:
    with export():
        done = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SLICE:
            for _ in range(PAIRS):
                with region.write_lock():
                    pass
            done += PAIRS
        return elapsed / done


@contextmanager
def each_second(job: Callable[[], object]) -> Iterator[None]:
    """Have another thread do the job each second while the block runs."""
    over = threading.Event()

    def work() -> None:
        pause = FIRST
        while not over.wait(pause):
            job()
            pause = PERIOD

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def prometheus(region: Region, table: str | None) -> Iterator[None]:
    registry = CollectorRegistry()
    collector = RegionCollector([region], shared=table)
    registry.register(collector)
    try:
        with each_second(lambda: generate_latest(registry)):
            yield
    finally:
        collector.close()


@contextmanager
def opentelemetry(region: Region) -> Iterator[None]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument([region], meter=provider.get_meter("benchmark"))
    try:
        with each_second(reader.get_metrics_data):
            yield
    finally:
        provider.shutdown()
