"""What a SharedRegion promises in both of its homes: one file of tests for either."""

import threading
from collections.abc import Callable

import anyio
import pytest

from shm_async import (
    LockTimeoutError,
    RegionClosedError,
    RegionFormatError,
    RegionNotFoundError,
    RegionSizeError,
    SharedRegion,
    open_region,
)

pytestmark = pytest.mark.once

Open = Callable[[], SharedRegion]


@pytest.fixture(params=["memory", "postgresql"])
def where(request: pytest.FixtureRequest, name: str) -> str:
    return name if request.param == "memory" else request.getfixturevalue("address")


@pytest.fixture
def open_one(where: str) -> Open:
    return lambda: open_region(where, 4, dtype="uint64")


async def add_one(region: SharedRegion) -> None:
    """One function for either home: `mypy --strict` reads it, too."""
    async with region.transaction() as view:
        view[0] += 1


# ---- locks ---------------------------------------------------------------------------


async def test_what_one_writes_another_reads(open_one: Open):
    async with open_one() as one, open_one() as other:
        async with one.write_lock() as view:
            view[0], view[3] = 7, 2**64 - 1
        async with other.read_lock() as view:
            assert list(view) == [7, 0, 0, 2**64 - 1]
            assert view.readonly


async def test_it_tells_what_it_is(open_one: Open, where: str):
    region = open_one()
    async with region:
        assert region.name == where.rpartition("#")[2]
        assert (region.dtype, region.shape, region.nbytes, len(region)) == ("uint64", (4,), 32, 4)
        assert not region.closed
    assert region.closed


async def test_a_block_of_a_transaction_that_fails_changes_nothing(open_one: Open):
    async with open_one() as region:
        await add_one(region)
        with pytest.raises(ZeroDivisionError):
            async with region.transaction() as view:
                view[0] = 99
                _ = 1 // 0
        assert memoryview(await region.snapshot_async()).cast("Q")[0] == 1


async def test_tasks_count_exactly(open_one: Open):
    async def count(region: SharedRegion) -> None:
        for _ in range(10):
            await add_one(region)

    async with open_one() as one, open_one() as other:
        async with anyio.create_task_group() as tasks:
            for region in [one, other] * 5:
                tasks.start_soon(count, region)
        async with one.read_lock() as view:
            assert view[0] == 100


async def test_a_writer_waits_for_a_reader_and_readers_share(open_one: Open):
    written = anyio.Event()

    async def write(region: SharedRegion) -> None:
        async with region.write_lock() as view:
            view[0] = 1
        written.set()

    async with open_one() as one, open_one() as other:
        async with anyio.create_task_group() as tasks:
            async with one.read_lock(), other.read_lock() as view:
                tasks.start_soon(write, one)
                with anyio.move_on_after(0.1):
                    await written.wait()
                assert not written.is_set()
                assert view[0] == 0
            with anyio.fail_after(20):
                await written.wait()


async def test_a_cancelled_wait_leaves_nothing(open_one: Open):
    async with open_one() as one, open_one() as other:
        async with one.write_lock():
            for region in (one, other):

                async def wait(region: SharedRegion) -> None:
                    async with region.write_lock():
                        pytest.fail("two hold the write lock")

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait, region)
                    await anyio.sleep(0.05)
                    tasks.cancel_scope.cancel()
        with anyio.fail_after(20):
            async with other.write_lock(), anyio.create_task_group():
                pass


async def test_it_is_released_and_downgraded_by_the_same_calls(open_one: Open):
    async with open_one() as one, open_one() as other:
        hold = one.write_lock()
        view = await hold.acquire()
        view[0] = 5
        await hold.downgrade_async()
        assert hold.view[0] == 5
        async with other.read_lock() as view:
            assert view[0] == 5
        await hold.release_async()
        with anyio.fail_after(20):
            await add_one(other)


async def test_an_upgrade_tells_whether_anybody_wrote(open_one: Open):
    async with open_one() as region:
        hold = region.read_lock()
        await hold.acquire()
        assert await hold.upgrade() is True
        hold.view[1] = 3
        await hold.release_async()
        async with region.read_lock() as view:
            assert view[1] == 3


async def test_a_task_that_would_wait_for_itself_is_told(open_one: Open):
    async with open_one() as region:
        async with region.write_lock():
            with pytest.raises(RuntimeError, match="itself"):
                async with region.read_lock():
                    pass


# ---- threads --------------------------------------------------------------------------


def test_threads_count_exactly(open_one: Open):
    def count(region: SharedRegion) -> None:
        for _ in range(10):
            with region.transaction() as view:
                view[0] += 1

    with open_one() as region:
        threads = [threading.Thread(target=count, args=(region,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with region.read_lock() as view:
            assert view[0] == 40


def test_a_thread_gives_up_after_its_timeout(open_one: Open):
    with open_one() as one, open_one() as other:
        with one.write_lock(), pytest.raises(LockTimeoutError):
            with other.write_lock(timeout=0.1):
                pass
        with other.write_lock(timeout=20):
            pass


# ---- changes ----------------------------------------------------------------------------


async def test_changes_tell_of_a_store_and_miss_none(open_one: Open):
    async with open_one() as one, open_one() as other:
        heard = one.changes()
        before = one.generation
        assert before is not None
        await add_one(other)  # after the call, before the first step
        with anyio.fail_after(20):
            first = await heard.__anext__()
            assert first > before
            await add_one(other)
            assert await heard.__anext__() > first
            assert one.generation % 2 == 0


async def test_nothing_changes_without_a_store(open_one: Open):
    async with open_one() as region:
        await add_one(region)
        with anyio.move_on_after(0.2) as scope:
            await region.wait_changed(since=region.generation)
        assert scope.cancelled_caught


# ---- end --------------------------------------------------------------------------------


async def test_closing_ends_waits(open_one: Open):
    region = open_one()
    async with region:
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(RegionClosedError):
                    await region.wait_changed()

            tasks.start_soon(wait)
            await anyio.sleep(0.1)
            await region.aclose()
    with pytest.raises(RegionClosedError):
        async with region.read_lock():
            pass


async def test_unlinking_removes_it_once(open_one: Open):
    region = open_one()
    async with region:
        await add_one(region)
        await region.unlink_async()
    with pytest.raises(RegionNotFoundError):
        await region.unlink_async()
    async with open_one() as fresh, fresh.read_lock() as view:
        assert view[0] == 0


async def test_another_element_type_or_size_is_refused(open_one: Open, where: str):
    async with open_one():
        with pytest.raises(RegionFormatError, match="float64"):
            async with open_region(where, 4, dtype="float64"):
                pass
        with pytest.raises(RegionSizeError):
            async with open_region(where, 5, dtype="uint64"):
                pass


async def test_statistics_count_alike(open_one: Open):
    async with open_one() as region:
        await add_one(region)
        async with region.read_lock():
            pass
        counts = region.statistics()
        assert (counts.reads, counts.writes, counts.waiting) == (1, 1, 0)
        assert counts.holds == 2
        assert 0 < counts.longest_hold < counts.held < 10
