"""One function that accepts a region of either home, for mypy and pyright: never run."""

from collections.abc import AsyncIterator

from typing_extensions import assert_type

from shm_async import Region, SharedHold, SharedRegion, Statistics, open_region
from shm_async.postgresql import PostgresHold, PostgresRegion, ddl


async def increment(region: SharedRegion) -> int:
    async with region, region.write_lock() as view:
        view[0] += 1
        assert_type(view, memoryview)
    with region, region.transaction(timeout=1) as copy:
        assert_type(copy, memoryview)
    hold = region.read_lock()
    assert_type(hold, SharedHold)
    assert_type(await hold.acquire(), memoryview)
    assert_type(hold.view, memoryview)
    assert_type(await hold.release_async(), None)
    assert_type(region.statistics(), Statistics)
    assert_type(await region.snapshot_async(), bytes)
    assert_type(region.changes(), AsyncIterator[int])
    return await region.wait_changed()


async def either(region: Region, row: PostgresRegion) -> None:
    assert_type(await increment(region), int)
    assert_type(await increment(row), int)
    opened = open_region("postgresql:///shop#stock", 8, dtype="uint64")
    assert_type(opened, SharedRegion)
    await increment(opened)
    holds: list[SharedHold] = [region.read_lock(), row.write_lock()]
    print(holds)


async def rows(row: PostgresRegion) -> None:
    assert_type(row.write_lock(), PostgresHold)
    async with row as entered, entered.read_lock() as view:
        assert_type(view, memoryview)
    assert_type(ddl(), str)
