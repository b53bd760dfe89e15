"""The instruments for OpenTelemetry, collected by the SDK's own reader."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rivals import Rival

from shm_async import Region, Statistics
from shm_async._lock.statistics import wait_listeners
from shm_async.contrib.opentelemetry import instrument

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def no_listener_stays() -> Iterator[None]:
    yield
    wait_listeners.clear()


def collected(reader: InMemoryMetricReader) -> dict[tuple[str, object], Any]:
    """The points of all metrics, by name and kind of lock."""
    return {
        (metric.name, point.attributes.get("shm_async.lock.kind")): point
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def test_a_region_shows_what_it_counted(region: Region):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    regions = [region]
    instrument(regions, meter=provider.get_meter("test"))
    with region.write_lock():
        pass
    found = collected(reader)
    provider.shutdown()
    assert found["shm_async.lock.grants", "write"].value == 1
    assert found["shm_async.lock.grants", "read"].value == 0
    assert found["shm_async.lock.holds", None].value == 1
    assert 0 < found["shm_async.lock.hold_time", None].value < 1
    assert found["shm_async.region.size", None].value == 64
    assert found["shm_async.region.generation", None].value == 2
    assert found["shm_async.region.attachments", None].value == 1
    assert found["shm_async.lock.waiting", None].value == 0
    assert found["shm_async.owner.deaths", None].value == 0
    assert len(found) == 13


def test_a_label_has_its_figures(region: Region):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument([region], meter=provider.get_meter("test"))
    with region.write_lock(label="checkout"):
        pass
    found = collected(reader)
    provider.shutdown()
    grants = found["shm_async.label.grants", "write"]
    assert (grants.value, grants.attributes["shm_async.lock.label"]) == (1, "checkout")
    held = found["shm_async.label.hold_time", None].value
    assert 0 < held == found["shm_async.label.longest_hold", None].value


def be_refused(region: Region, rival: Rival, seconds: float) -> None:
    """Wait for so long in vain."""
    assert rival.do("exclusive") == "done"
    with pytest.raises(TimeoutError), region.write_lock(timeout=seconds, label="checkout"):
        pass
    assert rival.do("unlock") == "done"


def test_waits_are_a_histogram(region: Region, rival: Rival):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument([region], meter=provider.get_meter("test"))
    be_refused(region, rival, 0.2)  # the measured wait may begin a little after the timeout does
    point = collected(reader)["shm_async.lock.wait_time", None]
    provider.shutdown()
    assert (point.count, point.attributes["shm_async.lock.label"]) == (1, "checkout")
    assert 0.025 < point.sum < 10
    assert point.explicit_bounds == Statistics.wait_bounds
    assert sum(point.bucket_counts[: Statistics.wait_bounds.index(0.025) + 1]) == 0


def test_a_long_wait_is_a_span_of_the_task_that_waited(region: Region, rival: Rival):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    instrument([region], meter=NoOpMeter("test"), span_above=0.03, tracer=tracer)
    with tracer.start_as_current_span("request") as request:
        be_refused(region, rival, 0.001)
        be_refused(region, rival, 0.2)
    waits = [span for span in exporter.get_finished_spans() if span.name == "shm_async.lock.wait"]
    wait = waits[-1]
    # a busy machine may make a long wait of the short one
    assert all(each.end_time - each.start_time > 0.03e9 for each in waits)
    assert wait.parent.span_id == request.context.span_id
    assert wait.attributes["shm_async.region.name"] == region.name
    assert wait.end_time - wait.start_time < 10e9
    assert request.start_time <= wait.start_time
    provider.shutdown()


def test_other_regions_waits_and_errors_of_an_sdk_do_no_harm(
    region: Region, rival: Rival, name: str
):
    def fail(seconds: float, attributes: object) -> None:
        raise RuntimeError

    meter = NoOpMeter("test")
    meter.create_histogram = lambda *_, **__: SimpleNamespace(record=fail)
    instrument([region], meter=meter)
    be_refused(region, rival, 0.001)
    with Region.temporary(8) as other:
        listener = wait_listeners[-1]
        listener.wait_time = SimpleNamespace(record=lambda *_: pytest.fail("not its region"))
        with other.write_lock(), pytest.raises(TimeoutError), Region.attach(other.name) as second:
            second.write_lock().acquire_blocking(0.001)
