"""Metrics of regions for OpenTelemetry (extra ``[opentelemetry]``), and spans of long waits.

To begin::

    from shm_async.contrib.opentelemetry import instrument
    instrument([region])

Figures are of this process; the resource of each process (``service.instance.id``) tells them
apart, and the backend adds them up.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.trace import Tracer

from .._lock.statistics import WAIT_BOUNDS, wait_listeners
from ._figures import Figures, Observed, attachments_of, figures_of, generation_of

__all__ = ["instrument"]

REGION = "shm_async.region.name"
KIND = "shm_async.lock.kind"
LABEL = "shm_async.lock.label"

COUNTERS = [
    ("shm_async.lock.cancelled", "cancelled", "{wait}", "Waits that ended without the lock."),
    ("shm_async.lock.hand_overs", "hand_overs", "{lock}", "From task to task, without the kernel."),
    ("shm_async.lock.holds", "holds", "{hold}", "Holds of the lock that have ended."),
    ("shm_async.lock.hold_time", "held", "s", "The time of all holds together."),
    (
        "shm_async.owner.deaths",
        "owner_deaths",
        "{death}",
        "Processes that died while they held the lock for writing.",
    ),
]
GAUGES = [
    ("shm_async.lock.longest_wait", "longest_wait", "s", "The longest wait so far."),
    ("shm_async.lock.longest_hold", "longest_hold", "s", "The longest hold so far."),
]

Observe = Callable[[], Iterable[Observation]]
Callback = Callable[[CallbackOptions], Iterable[Observation]]


def instrument(
    regions: Sequence[Observed],
    *,
    meter: Meter | None = None,
    span_above: float | None = None,
    tracer: Tracer | None = None,
) -> None:
    """Have the figures of these regions exported, whenever the SDK collects.

    Never blocks; the callbacks read counters that are there anyway, and each wait that ends is
    recorded in a histogram. A forked child counts from 0. Instruments cannot be taken back: a
    region that is closed keeps its counts.

    Args:
        regions: those to tell of; a list is looked at anew each time.
        meter: to create the instruments with; None: that of the global provider.
        span_above: seconds; a wait that took at least as long becomes a span, as a child of
            the span in which the thread or task waited. None: none does.
        tracer: to make the spans with; None: that of the global provider.

    Errors are those of the meter and the tracer.
    """
    meter = metrics.get_meter("shm_async") if meter is None else meter
    for name, key, unit, text in COUNTERS:
        _count(meter, name, unit, text, _field(regions, key))
    for name, key, unit, text in GAUGES:
        _gauge(meter, name, unit, text, _field(regions, key))
    _count(meter, "shm_async.lock.grants", "{lock}", "Locks granted.", lambda: _grants(regions))
    meter.create_observable_up_down_counter(
        "shm_async.lock.waiting",
        [_callback(_field(regions, "waiting"))],
        unit="{wait}",
        description="Tasks and threads that wait for the lock now.",
    )
    _instrument_labels(meter, regions)
    _instrument_facts(meter, regions)
    wait_time = meter.create_histogram(
        "shm_async.lock.wait_time",
        unit="s",
        description="Waits for the lock that ended, with the lock or without it.",
        explicit_bucket_boundaries_advisory=WAIT_BOUNDS,
    )
    if span_above is not None and tracer is None:
        tracer = trace.get_tracer("shm_async")
    wait_listeners.append(_Waits(regions, wait_time, span_above, tracer))


def _instrument_labels(meter: Meter, regions: Sequence[Observed]) -> None:
    text = "Locks granted that have a label."
    _count(meter, "shm_async.label.grants", "{lock}", text, lambda: _label_grants(regions))
    text = "The time of all holds of locks with this label together."
    _count(meter, "shm_async.label.hold_time", "s", text, lambda: _label_fields(regions, "held"))
    text = "The longest hold so far of locks with this label."
    longest = "longest_hold"
    _gauge(
        meter, "shm_async.label.longest_hold", "s", text, lambda: _label_fields(regions, longest)
    )


def _instrument_facts(meter: Meter, regions: Sequence[Observed]) -> None:
    _gauge(meter, "shm_async.region.size", "By", "Bytes of data.", lambda: _sizes(regions))
    text = "2 for each write; odd: a process writes."
    _gauge(meter, "shm_async.region.generation", "1", text, lambda: _generations(regions))
    text = "Attachments, of any process of this host."
    name = "shm_async.region.attachments"
    _gauge(meter, name, "{attachment}", text, lambda: _attachments(regions))


def _count(meter: Meter, name: str, unit: str, text: str, observe: Observe) -> None:
    meter.create_observable_counter(name, [_callback(observe)], unit=unit, description=text)


def _gauge(meter: Meter, name: str, unit: str, text: str, observe: Observe) -> None:
    meter.create_observable_gauge(name, [_callback(observe)], unit=unit, description=text)


def _callback(observe: Observe) -> Callback:
    return lambda _options: observe()


# ---- when the SDK collects -------------------------------------------------------------


def _field(regions: Sequence[Observed], key: str) -> Observe:
    """Return a function that observes that field of each region."""

    def observe() -> Iterable[Observation]:
        figures: Figures = figures_of(regions)
        return [Observation(each[key], {REGION: name}) for name, each in figures.items()]

    return observe


def _grants(regions: Sequence[Observed]) -> Iterable[Observation]:
    for name, each in figures_of(regions).items():
        for kind in ("read", "write"):
            yield Observation(each[f"{kind}s"], {REGION: name, KIND: kind})


def _label_grants(regions: Sequence[Observed]) -> Iterable[Observation]:
    for name, each in figures_of(regions).items():
        for label, its in each["labels"].items():
            for kind in ("read", "write"):
                yield Observation(its[f"{kind}s"], {REGION: name, LABEL: label, KIND: kind})


def _label_fields(regions: Sequence[Observed], key: str) -> Iterable[Observation]:
    for name, each in figures_of(regions).items():
        for label, its in each["labels"].items():
            yield Observation(its[key], {REGION: name, LABEL: label})


def _sizes(regions: Sequence[Observed]) -> Iterable[Observation]:
    return [Observation(each.nbytes, {REGION: each.name}) for each in regions]


def _generations(regions: Sequence[Observed]) -> Iterable[Observation]:
    for region in regions:
        generation = generation_of(region)
        if generation is not None:
            yield Observation(generation, {REGION: region.name})


def _attachments(regions: Sequence[Observed]) -> Iterable[Observation]:
    for name, count in attachments_of(each.name for each in regions).items():
        yield Observation(count, {REGION: name})


# ---- when a wait ends ------------------------------------------------------------------


class _Waits:
    """The listener for the waits of some regions: records each, and makes spans of long ones."""

    def __init__(
        self,
        regions: Sequence[Observed],
        wait_time: Histogram,
        span_above: float | None,
        tracer: Tracer | None,
    ) -> None:
        self.regions = regions
        self.wait_time = wait_time
        self.span_above = span_above
        self.tracer = tracer

    def __call__(self, name: str, seconds: float, label: str | None) -> None:
        with suppress(Exception):  # of an SDK: the lock is granted all the same
            if any(each.name == name for each in self.regions):
                attributes = {REGION: name} if label is None else {REGION: name, LABEL: label}
                self.wait_time.record(seconds, attributes)
                if self.tracer and self.span_above is not None and seconds >= self.span_above:
                    self._make_span(self.tracer, seconds, attributes)

    def _make_span(self, tracer: Tracer, seconds: float, attributes: dict[str, str]) -> None:
        end = time.time_ns()
        start = end - int(seconds * 1e9)
        span = tracer.start_span("shm_async.lock.wait", start_time=start, attributes=attributes)
        span.end(end)
