"""The instruments for OpenTelemetry, collected by the SDK's own reader."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from shm_async import Region
from shm_async.contrib.opentelemetry import instrument

pytestmark = pytest.mark.once


def test_a_region_shows_what_it_counted(region: Region):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    regions = [region]
    instrument(regions, meter=provider.get_meter("test"))
    with region.write_lock():
        pass
    found = {
        (metric.name, point.attributes.get("kind")): point.value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    provider.shutdown()
    assert found["shm_async.lock.grants", "write"] == 1
    assert found["shm_async.lock.grants", "read"] == 0
    assert found["shm_async.region.size", None] == 64
    assert found["shm_async.region.generation", None] == 2
    assert found["shm_async.lock.waiting", None] == 0
    assert found["shm_async.owner.deaths", None] == 0
    assert len(found) == 12
