"""Regions behind a real PgBouncer: refused, unless the caller promises that it keeps sessions."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from databases import INTERVAL, Server
from poolers import pgbouncer

from shm_async import RegionServerError, SharedRegion, open_region

pytestmark = pytest.mark.once


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may read; pytest's own lie in one that is root's alone."""
    with tempfile.TemporaryDirectory(prefix="shm-async-pgbouncer-") as found:
        yield Path(found)


def region_at(address: str, **options: object) -> SharedRegion:
    options = {"check_interval": INTERVAL, "connect_timeout": 5.0, **options}
    return open_region(address, 4, dtype="uint64", **options)


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_it_is_refused_and_told_what_to_do(
    mode: str, database: Server, address: str, folder: Path
):
    if not database.ours:
        pytest.skip("a pooler needs a server on this host")
    with pgbouncer(database, mode, folder) as pooler, anyio.fail_after(20):
        with pytest.raises(RegionServerError, match="connect to the server itself"):
            async with region_at(f"{pooler}#{address.rpartition('#')[2]}"):
                pass


async def test_one_that_keeps_sessions_whole_serves(database: Server, address: str, folder: Path):
    if not database.ours:
        pytest.skip("a pooler needs a server on this host")
    name = address.rpartition("#")[2]
    with pgbouncer(database, "session", folder) as pooler, anyio.fail_after(20):
        one = region_at(f"{pooler}#{name}", pooler="session")
        async with one, region_at(address) as other:
            seen = other.generation

            async def count(region: SharedRegion) -> None:
                for _ in range(20):
                    async with region.write_lock() as view:
                        view[0] += 1

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count, one)
                tasks.start_soon(count, other)
            assert await one.wait_changed(since=seen) > seen
            async with one.read_lock() as view:
                assert view[0] == 40
