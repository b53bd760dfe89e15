"""Metrics of regions for Prometheus: a collector for prometheus_client (extra ``[prometheus]``).

To begin::

    from prometheus_client import REGISTRY
    REGISTRY.register(RegionCollector([region]))

Figures are of this process. Where several processes answer one port, as the workers of a web
server do, name a table that they share: ``RegionCollector([region], shared="myservice.metrics")``.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from .._lock.statistics import WAIT_BOUNDS
from ._figures import Figures, Observed, attachments_of, figures_of, generation_of
from ._together import Together

__all__ = ["RegionCollector"]

COUNTERS = {
    "cancelled": ("lock_cancelled", "Waits that ended without the lock."),
    "hand_overs": ("lock_hand_overs", "Locks handed from task to task without the kernel."),
    "kernel_requests": ("lock_kernel_requests", "Requests to the waiting threads of loops."),
    "owner_deaths": (
        "owner_deaths",
        "Processes that died while they held the lock for writing, as these processes found.",
    ),
}
GAUGES = {
    "waiting": ("lock_waiting", "Tasks and threads that wait for the lock now."),
    "longest_wait": ("lock_longest_wait_seconds", "The longest wait so far."),
    "longest_hold": ("lock_longest_hold_seconds", "The longest hold so far."),
}


class RegionCollector(Collector):
    """Collects the figures of some regions whenever it is asked.

    Each scrape reads counters that are there anyway; a lock pays nothing for it. A closed region
    keeps its counts. A forked child exports its own figures.

    With `shared` the figures are those of all processes that named the same table, the ones that
    have ended included. A thread of each process writes them there once a second, so a process
    that is killed loses the last second. The table is a region of this host with that name; it
    stays when the service ends, as its counts do, until it is unlinked.

    Args:
        regions: those to tell of; a list is looked at anew each time.
        shared: the name of the table. Needed in the multiprocess mode of prometheus_client.
        processes: that the table has room for, 16384 bytes each, when it is created.
        attached: also export how many attachments there are, which takes a look at the host's
            processes: some milliseconds.

    Raises:
        ValueError: the multiprocess mode is on (PROMETHEUS_MULTIPROC_DIR), and `shared` is None.
        ShmError, OSError: the table cannot be opened.
    """

    def __init__(
        self,
        regions: Sequence[Observed],
        *,
        shared: str | None = None,
        processes: int = 64,
        attached: bool = True,
    ) -> None:
        if shared is None and os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            raise ValueError(
                "PROMETHEUS_MULTIPROC_DIR is set, so one process answers for all of them: say "
                'shared="myservice.metrics", the name of a table that they share'
            )
        self._regions = regions
        self._attached = attached
        self._together: Together | None = None
        if shared is not None:
            self._together = Together(shared, regions, processes=processes)

    def collect(self) -> Iterator[Metric]:
        """The metrics. Blocks for half a second at most, if the table's lock is busy.

        Raises:
            LockTimeoutError: it was busy for longer.
        """
        figures = self._figures()
        yield _grants("shm_async_lock_grants", figures, "Locks granted.")
        yield _waits("shm_async_lock_wait_seconds", figures, "Waits for the lock that ended.")
        yield _holds("shm_async_lock_hold_seconds", figures, "Holds of the lock that ended.")
        for key, (name, text) in COUNTERS.items():
            yield _family(CounterMetricFamily, name, text, figures, key)
        for key, (name, text) in GAUGES.items():
            yield _family(GaugeMetricFamily, name, text, figures, key)
        yield from _labelled(figures)
        yield from self._facts()

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the regions. Never blocks and raises nothing."""
        return ()

    def close(self) -> None:
        """Write the figures to the table for the last time. Blocks like `collect`; raises nothing.

        Not needed without ``shared``.
        """
        if self._together is not None:
            self._together.close()

    def _figures(self) -> Figures:
        return figures_of(self._regions) if self._together is None else self._together.sum()

    def _facts(self) -> Iterator[Metric]:
        names = ["region"]
        size = GaugeMetricFamily("shm_async_region_bytes", "Bytes of data.", labels=names)
        generation = GaugeMetricFamily(
            "shm_async_region_generation", "2 for each write; odd: a process writes.", labels=names
        )
        for region in {region.name: region for region in self._regions}.values():
            size.add_metric([region.name], region.nbytes)
            number = generation_of(region)
            if number is not None:
                generation.add_metric([region.name], number)
        yield size
        yield generation
        if self._attached:
            attached = GaugeMetricFamily(
                "shm_async_region_attachments", "Attachments, of any process.", labels=names
            )
            for name, count in attachments_of(region.name for region in self._regions).items():
                attached.add_metric([name], count)
            yield attached


def _family(kind: Any, name: str, text: str, figures: Figures, key: str) -> Metric:
    family = kind(f"shm_async_{name}", text, labels=["region"])
    for region, each in figures.items():
        family.add_metric([region], each[key])
    return cast("Metric", family)


def _grants(name: str, figures: Figures, text: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=["region", "kind"])
    for region, each in figures.items():
        family.add_metric([region, "read"], each["reads"])
        family.add_metric([region, "write"], each["writes"])
    return family


def _waits(name: str, figures: Figures, text: str) -> Metric:
    family = HistogramMetricFamily(name, text, labels=["region"])
    for region, each in figures.items():
        family.add_metric([region], _buckets(each["waits"]), each["waited"])
    return family


def _holds(name: str, figures: Figures, text: str) -> Metric:
    family = SummaryMetricFamily(name, text, labels=["region"])
    for region, each in figures.items():
        family.add_metric([region], each["holds"], each["held"])
    return family


def _buckets(waits: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus counts."""
    found, total = [], 0
    for bound, count in zip([*WAIT_BOUNDS, "+Inf"], waits, strict=True):
        total += count
        found.append((str(bound), float(total)))
    return found


def _labelled(figures: Figures) -> Iterator[Metric]:
    """What the locks that have a label did."""
    names = ["region", "label"]
    grants = CounterMetricFamily(
        "shm_async_label_grants", "Locks granted that have a label.", labels=[*names, "kind"]
    )
    waits = HistogramMetricFamily(
        "shm_async_label_wait_seconds",
        "Waits that ended, for locks that have a label.",
        labels=names,
    )
    holds = SummaryMetricFamily(
        "shm_async_label_hold_seconds",
        "Holds that ended, of locks that have a label.",
        labels=names,
    )
    longest = GaugeMetricFamily(
        "shm_async_label_longest_hold_seconds",
        "The longest hold so far of locks that have a label.",
        labels=names,
    )
    for region, each in figures.items():
        for label, its in each["labels"].items():
            grants.add_metric([region, label, "read"], its["reads"])
            grants.add_metric([region, label, "write"], its["writes"])
            waits.add_metric([region, label], _buckets(its["waits"]), its["waited"])
            holds.add_metric([region, label], its["holds"], its["held"])
            longest.add_metric([region, label], its["longest_hold"])
    yield from (grants, waits, holds, longest)
