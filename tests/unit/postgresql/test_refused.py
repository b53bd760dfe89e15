"""The database answers, and refuses: what was granted goes back, and no other change comes in."""

from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import pytest
from databases import Server
from proxies import Proxy

from shm_async import LockLostError, RegionFormatError, RegionServerError, SharedRegion
from shm_async.postgresql import ddl

pytestmark = pytest.mark.once

OpenOne = Callable[..., SharedRegion]

LOCKS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
def refusing(open_one: OpenOne, database: Server) -> Iterator[SharedRegion]:
    """A region of a database that stores no 13 in the first element."""
    database.sql(ddl("refusing"))
    database.sql("ALTER TABLE refusing.regions ADD CHECK (get_byte(data, 0) <> 13)")
    yield open_one(schema="refusing")
    database.sql("DROP SCHEMA refusing CASCADE")


async def test_a_block_that_saw_a_refused_change_does_not_bring_it_in(refusing: SharedRegion):
    refused = anyio.Event()

    async def be_refused() -> None:
        with pytest.raises(RegionServerError, match="violates check constraint"):
            async with refusing.write_lock() as view:
                view[0] = 13
        refused.set()

    async def build_on_it() -> None:
        with pytest.raises(LockLostError) as caught:
            async with refusing.write_lock() as view:
                assert view[0] == 13
                await refused.wait()
                view[0] += 1
        assert caught.value.committed is False

    async with refusing:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                async with refusing.read_lock():
                    for number, function in enumerate((be_refused, build_on_it), 1):
                        tasks.start_soon(function)
                        while refusing.statistics().waiting < number:
                            await anyio.lowlevel.checkpoint()
        async with refusing.read_lock() as view:
            assert view[0] == 0


async def test_a_downgrade_that_is_refused_holds_nothing(refusing: SharedRegion, database: Server):
    async with refusing:
        hold = refusing.write_lock()
        (await hold.acquire())[0] = 13
        with pytest.raises(RegionServerError, match="violates check constraint"):
            await hold.downgrade_async()
        with anyio.fail_after(20):
            while database.sql(LOCKS):
                await anyio.sleep(0.01)


async def test_an_error_behind_the_grant_gives_the_lock_back(
    refusing: SharedRegion, database: Server
):
    async with refusing:
        database.sql("ALTER SEQUENCE refusing.fences RENAME TO elsewhere")
        with pytest.raises(RegionFormatError, match="fences"):
            await refusing.write_lock().acquire()
        assert not database.sql(LOCKS)


async def test_nobody_knows_of_a_store_whose_region_closes_in_the_middle(
    open_by_proxy: OpenOne, proxy: Proxy
):
    region = open_by_proxy(check_interval=5.0)
    told = []

    async def add() -> None:
        with pytest.raises(LockLostError) as caught:
            async with region.write_lock() as view:
                view[0] = 1
                proxy.answers = False
        told.append(caught.value.committed)

    async with anyio.create_task_group() as tasks:
        await region.__aenter__()
        tasks.start_soon(add)
        await anyio.to_thread.run_sync(proxy.wait_until_thrown)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await region.__aexit__(None, None, None)
    assert told == [None]
