"""The types of the other modules that users import, for mypy and pyright: never run."""

from collections.abc import Iterable

from opentelemetry.metrics import Meter
from prometheus_client import Metric
from starlette.applications import Starlette
from typing_extensions import assert_type

from shm_async import Region, SharedRegion, shm_typed_array
from shm_async.contrib import opentelemetry
from shm_async.contrib.dashboard import dashboard
from shm_async.contrib.prometheus import RegionCollector
from shm_async.mmap_ipc import AsyncMmapIPC, MmapIPC
from shm_async.pytest_plugin import RegionFactory


def mapped() -> None:
    with MmapIPC("x", 8) as shared:
        assert_type(shared, MmapIPC)
        assert_type(shared.acquire_write_lock(), bool)
        assert_type(shared.buffer(), memoryview)
        assert_type(shared.region, Region)
        assert_type(shared.remove_lock(), bool)


async def mapped_in_coroutines() -> None:
    async with AsyncMmapIPC("x", 8) as shared:
        assert_type(shared, AsyncMmapIPC)
        assert_type(await shared.acquire_read_lock(), bool)
        assert_type(await shared.remove_lock(), bool)


def arrays() -> None:
    array = shm_typed_array.create(8, "Float64Array", "x")
    assert array is not None
    array[0] = 1.5
    assert_type(len(array), int)
    assert_type(array.region, Region)
    assert_type(array.key, int | str)
    assert_type(shm_typed_array.detach("x"), int)


def test_of_a_user(shm_region: Region, shm_region_factory: RegionFactory) -> None:
    assert_type(shm_region_factory(8, dtype="float64"), Region)
    assert_type(shm_region_factory.name(), str)
    with shm_region.write_lock() as view:
        view[0] = 1


def exports(region: Region, shared: SharedRegion, meter: Meter) -> None:
    assert_type(opentelemetry.instrument([region, shared], meter=meter), None)
    collector = RegionCollector([region], shared="myservice.metrics")
    metrics: Iterable[Metric] = collector.collect()
    print(metrics)
    assert_type(dashboard(["myservice.*"]), Starlette)
