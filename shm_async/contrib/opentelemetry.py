"""Metrics of regions for OpenTelemetry (extra ``[opentelemetry]``): observable instruments.

    from shm_async.contrib.opentelemetry import instrument
    instrument([region])

Figures are of this process; the resource of each process (``service.instance.id``) tells them
apart, and the backend adds them up.
"""

from collections.abc import Callable, Iterable, Sequence

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ._figures import Figures, Observed, figures_of, generation_of

__all__ = ["instrument"]

COUNTERS = [
    ("shm_async.lock.waits", "contended", "{wait}", "Locks that had to be waited for."),
    ("shm_async.lock.wait.time", "waited", "s", "Time spent waiting for the lock."),
    ("shm_async.lock.cancelled", "cancelled", "{wait}", "Waits that ended without the lock."),
    ("shm_async.lock.hand_overs", "hand_overs", "{lock}", "From task to task, without the kernel."),
    ("shm_async.owner.deaths", "owner_deaths", "{death}", "Writers that died inside."),
]
GAUGES = [
    ("shm_async.lock.longest_wait", "longest_wait", "s", "The longest wait so far."),
    ("shm_async.lock.longest_hold", "longest_hold", "s", "The longest hold so far."),
]

Callback = Callable[[CallbackOptions], Iterable[Observation]]


def instrument(regions: Sequence[Observed], *, meter: Meter | None = None) -> None:
    """Have the figures of these regions exported, whenever the SDK collects.

    Never blocks; the callbacks read counters that are there anyway. A forked child counts from 0.
    Instruments cannot be taken back: a region that is closed keeps its counts.

    Args:
        regions: those to tell of; a list is looked at anew each time.
        meter: to create the instruments with; None: that of the global provider.

    Raises:
        Whatever the meter raises.
    """
    meter = metrics.get_meter("shm_async") if meter is None else meter
    meter.create_observable_counter(
        "shm_async.lock.grants", [_grants(regions)], unit="{lock}", description="Locks granted."
    )
    for name, key, unit, text in COUNTERS:
        meter.create_observable_counter(name, [_field(regions, key)], unit=unit, description=text)
    for name, key, unit, text in GAUGES:
        meter.create_observable_gauge(name, [_field(regions, key)], unit=unit, description=text)
    meter.create_observable_up_down_counter(
        "shm_async.lock.waiting",
        [_field(regions, "waiting")],
        unit="{wait}",
        description="Tasks and threads that wait for the lock now.",
    )
    meter.create_observable_gauge(
        "shm_async.region.size", [_sizes(regions)], unit="By", description="Bytes of data."
    )
    meter.create_observable_gauge(
        "shm_async.region.generation",
        [_generations(regions)],
        unit="1",
        description="2 for each write; odd: one is inside.",
    )


def _each(figures: Figures, key: str) -> Iterable[Observation]:
    """One observation of each region, without the locks that have a label."""
    return [Observation(each[key], {"region": name}) for name, each in figures.items()]


def _field(regions: Sequence[Observed], key: str) -> Callback:
    return lambda _options: _each(figures_of(regions), key)


def _grants(regions: Sequence[Observed]) -> Callback:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for name, each in figures_of(regions).items():
            for kind in ("read", "write"):
                yield Observation(each[f"{kind}s"], {"region": name, "kind": kind})

    return observe


def _sizes(regions: Sequence[Observed]) -> Callback:
    return lambda _options: [Observation(each.nbytes, {"region": each.name}) for each in regions]


def _generations(regions: Sequence[Observed]) -> Callback:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        for region in regions:
            generation = generation_of(region)
            if generation is not None:
                yield Observation(generation, {"region": region.name})

    return observe
