"""Conversions: a reader becomes the writer, the writer a reader, and who is told what."""

import os
import threading
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
from conftest import Rival, wait_until

from shm_async import (
    LockTimeoutError,
    Region,
    RegionClosedError,
    RegionSizeError,
    WouldBlockError,
    asynclock,
)


@pytest.fixture
def other(region: Region) -> Iterator[Region]:
    """A second attachment, which the kernel keeps apart from the first as if in another process."""
    with Region.attach(region.name) as other:
        yield other


async def until(condition) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


def queued(region: Region) -> int:
    return sum(len(cohort.queue) for cohort in region._cohorts.values())


# ---- upgrade ---------------------------------------------------------------------------


async def test_a_lone_reader_upgrades_in_place(region: Region, rival: Rival):
    hold = region.read_lock()
    async with hold as view:
        assert rival.do("try-shared") == "done"
        assert rival.do("unlock") == "done"
        assert await hold.upgrade() is True
        assert rival.do("try-shared") == "busy"
        assert region.generation % 2 == 1
        with pytest.raises(ValueError, match="released"):
            view[0]
        hold.view[0] = 7
    assert region.generation % 2 == 0
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    async with hold as view:  # the same hold reads again
        assert view[0] == 7
        assert view.readonly
        assert rival.do("try-shared") == "done"


def test_a_lone_thread_upgrades_in_place(region: Region, rival: Rival):
    hold = region.read_lock()
    with hold as view:
        assert hold.upgrade_blocking() is True
        assert rival.do("try-shared") == "busy"
        with pytest.raises(ValueError, match="released"):
            view[0]
        hold.view[0] = 7
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    with hold as view:
        assert view[0] == 7
        assert view.readonly


async def test_upgrade_tells_that_another_process_may_have_written(region: Region, rival: Rival):
    hold = region.read_lock()
    upgraded = []

    async def upgrade() -> None:
        async with hold:
            assert rival.do("shared") == "done"
            upgraded.append(await hold.upgrade())
            hold.view[0] = 1
            assert rival.do("try-shared") == "busy"

    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        await until(lambda: queued(region))
        with pytest.raises(RuntimeError, match="not held"):
            hold.view  # noqa: B018
        assert rival.do("exclusive") == "done"  # it writes, as the kernel took our lock away
        assert upgraded == []
        rival.do("unlock")
    assert upgraded == [False]


def test_upgrade_blocking_tells_that_another_process_may_have_written(region: Region, rival: Rival):
    hold = region.read_lock()
    with hold:
        assert rival.do("shared") == "done"
        timer = threading.Thread(target=lambda: (wait_until(lambda: len(region._pool.free) == 0
            and region.statistics().waiting == 1), rival.do("unlock")))  # fmt: skip
        timer.start()
        assert hold.upgrade_blocking(10) is False
        timer.join()
        assert not hold.view.readonly
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


async def test_an_upgrader_waits_for_the_readers_of_its_loop_and_keeps_the_lock(
    region: Region, rival: Rival
):
    order: list[object] = []
    leave = anyio.Event()

    async def upgrade() -> None:
        hold = region.read_lock()
        async with hold:
            await anyio.sleep(0.01)  # the others come in
            order.append(await hold.upgrade())

    async def read() -> None:
        async with region.read_lock():
            await leave.wait()
            order.append("left")

    async def read_late() -> None:
        async with region.read_lock():
            order.append("late")

    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        group.start_soon(read)
        group.start_soon(read)
        await until(lambda: queued(region) == 1)
        group.start_soon(read_late)
        await until(lambda: queued(region) == 2)
        assert rival.do("try-exclusive") == "busy"
        leave.set()
    assert order == ["left", "left", True, "late"]


async def test_of_two_upgraders_of_a_loop_one_hears_true(region: Region):
    results = []

    async def increment(barrier: anyio.Event) -> None:
        hold = region.read_lock()
        async with hold as view:
            value = view[0]
            await barrier.wait()
            kept = await hold.upgrade()
            results.append(kept)
            if not kept:
                value = hold.view[0]
            hold.view[0] = value + 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            barrier = anyio.Event()
            for _ in range(5):
                group.start_soon(increment, barrier)
            await anyio.sleep(0.01)
            barrier.set()
    assert sorted(results) == [False] * 4 + [True]
    assert region.buffer[0] == 5


async def test_of_two_upgraders_of_two_processes_one_hears_true(region: Region, other: Region):
    first, second = region.read_lock(), other.read_lock()
    results = []

    async def upgrade() -> None:
        async with first:
            await second.acquire()
            results.append(await first.upgrade())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(upgrade)
            await until(lambda: queued(region))
            assert await second.upgrade() is True
            second.release()
    assert results == [False]


def test_threads_that_upgrade_at_once_lose_no_update(region: Region):
    def count() -> None:
        for _ in range(50):
            hold = region.read_lock()
            with hold as view:
                value = view[0]
                if not hold.upgrade_blocking(timeout=20):
                    value = hold.view[0]
                hold.view[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert region.buffer[0] == 200


# ---- cancelled, timed out ----------------------------------------------------------------


async def test_a_cancelled_upgrade_holds_nothing(region: Region, rival: Rival):
    hold = region.read_lock()
    assert rival.do("shared") == "done"
    async with hold:
        with anyio.move_on_after(0.01) as scope:
            await hold.upgrade()
        assert scope.cancelled_caught
        with pytest.raises(RuntimeError, match="not held"):
            hold.release()
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"
    await until(lambda: all(cohort.idle for cohort in region._cohorts.values()))


async def test_an_upgrade_that_is_cancelled_behind_readers_lets_the_next_in(
    region: Region, rival: Rival
):
    order = []
    leave = anyio.Event()
    scope = anyio.CancelScope()

    async def upgrade() -> None:
        hold = region.read_lock()
        async with hold:
            await anyio.sleep(0.01)  # the other comes in
            with scope:
                await hold.upgrade()
            order.append("cancelled")

    async def read() -> None:
        async with region.read_lock():
            await leave.wait()

    async def read_late() -> None:
        async with region.read_lock():
            order.append("late")

    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        group.start_soon(read)
        await until(lambda: queued(region) == 1)
        group.start_soon(read_late)
        await until(lambda: queued(region) == 2)
        assert order == []
        scope.cancel()
        await until(lambda: len(order) == 2)
        leave.set()
    assert sorted(order) == ["cancelled", "late"]
    assert rival.do("try-exclusive") == "done"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_upgrade_that_is_granted_and_cancelled_at_once_holds_nothing(
    region: Region, rival: Rival
):
    import asyncio

    reader, hold = region.read_lock(), region.read_lock()
    await reader.acquire()

    async def upgrade() -> None:
        async with hold:
            await hold.upgrade()

    task = asyncio.ensure_future(upgrade())
    await until(lambda: queued(region))
    reader.release()  # granted in this very turn of the loop
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rival.do("try-exclusive") == "done"


def test_an_upgrade_that_times_out_holds_nothing(region: Region, rival: Rival):
    hold = region.read_lock()
    assert rival.do("shared") == "done"
    with hold:
        with pytest.raises(LockTimeoutError):
            hold.upgrade_blocking(timeout=0.01)
        with pytest.raises(RuntimeError, match="not held"):
            hold.view  # noqa: B018
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"
    rival.do("unlock")
    with hold:
        pass


# ---- upgrade_nowait ----------------------------------------------------------------------


async def test_upgrade_nowait_converts_in_place(region: Region, rival: Rival):
    hold = region.read_lock()
    async with hold:
        hold.upgrade_nowait()
        hold.view[0] = 1
        assert rival.do("try-shared") == "busy"


def test_upgrade_nowait_converts_a_threads_lock(region: Region, rival: Rival):
    hold = region.read_lock()
    with hold:
        hold.upgrade_nowait()
        hold.view[0] = 1
        assert rival.do("try-shared") == "busy"


async def test_upgrade_nowait_keeps_the_read_lock_among_readers_of_its_loop(
    region: Region, rival: Rival
):
    async def read(*, task_status) -> None:
        async with region.read_lock():
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        await group.start(read)
        hold = region.read_lock()
        async with hold as view:
            with pytest.raises(WouldBlockError) as caught:
                hold.upgrade_nowait()
            assert caught.value.still_held is True
            assert view[0] == 0
            assert hold.view is view
            assert rival.do("try-exclusive") == "busy"
        group.cancel_scope.cancel()


async def test_upgrade_nowait_says_that_the_read_lock_is_lost(region: Region, rival: Rival):
    hold = region.read_lock()
    async with hold:
        assert rival.do("shared") == "done"
        with pytest.raises(WouldBlockError) as caught:
            hold.upgrade_nowait()
        assert caught.value.still_held is False
        with pytest.raises(RuntimeError, match="not held"):
            hold.view  # noqa: B018
        assert rival.do("try-exclusive") == "done"


def test_upgrade_nowait_says_that_a_threads_read_lock_is_lost(region: Region, rival: Rival):
    hold = region.read_lock()
    with hold:
        assert rival.do("shared") == "done"
        with pytest.raises(WouldBlockError) as caught:
            hold.upgrade_nowait()
        assert caught.value.still_held is False
        assert rival.do("try-exclusive") == "done"


async def test_who_waits_comes_in_after_an_upgrade_that_lost_its_lock(region: Region, rival: Rival):
    order = []

    async def write() -> None:
        async with region.write_lock():
            order.append("written")

    async with anyio.create_task_group() as group:
        hold = region.read_lock()
        await hold.acquire()
        assert rival.do("shared") == "done"
        group.start_soon(write)
        await until(lambda: queued(region))
        with pytest.raises(WouldBlockError):
            hold.upgrade_nowait()
        rival.do("unlock")
    assert order == ["written"]


# ---- downgrade ---------------------------------------------------------------------------


async def test_a_writer_becomes_a_reader_without_letting_go(region: Region, rival: Rival):
    hold = region.write_lock()
    async with hold as view:
        view[0] = 3
        hold.downgrade()
        assert region.generation % 2 == 0
        assert hold.view[0] == 3
        assert hold.view.readonly
        with pytest.raises(ValueError, match="released"):
            view[0]
        assert rival.do("try-shared") == "done"
        assert rival.do("try-exclusive") == "busy"
        assert rival.do("unlock") == "done"
        assert await hold.upgrade() is True
        hold.view[0] = 4
    assert rival.do("try-exclusive") == "done"


def test_a_writing_thread_becomes_a_reader_without_letting_go(region: Region, rival: Rival):
    hold = region.write_lock()
    with hold:
        hold.downgrade()
        assert hold.view.readonly
        assert rival.do("try-shared") == "done"
        assert rival.do("unlock") == "done"
        assert hold.upgrade_blocking() is True
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


async def test_a_downgrade_lets_waiting_readers_in_up_to_the_next_writer(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asynclock, "MAX_SHARE", 60)  # this test is slower than most holds
    order = []

    async def read(name: str) -> None:
        async with region.read_lock():
            order.append(name)

    async def write() -> None:
        async with region.write_lock():
            order.append("writer")

    async with anyio.create_task_group() as group:
        hold = region.write_lock()
        async with hold:
            for number, (wanted, arguments) in enumerate(
                [(read, ("first",)), (read, ("second",)), (write, ()), (read, ("third",))]
            ):
                group.start_soon(wanted, *arguments)
                await until(lambda number=number: queued(region) == number + 1)
            hold.downgrade()
            await until(lambda: len(order) == 2)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert sorted(order) == ["first", "second"]
    assert order[2:] == ["writer", "third"]


# ---- what is refused ---------------------------------------------------------------------


async def test_what_a_task_cannot_convert(region: Region):
    reader, writer = region.read_lock(), region.write_lock()
    for hold in (reader, writer):
        with pytest.raises(RuntimeError, match="not held"):
            await hold.upgrade()
        with pytest.raises(RuntimeError, match="not held"):
            hold.downgrade()
    async with writer:
        with pytest.raises(RuntimeError, match="has the write lock already"):
            await writer.upgrade()
        with pytest.raises(RuntimeError, match="has the write lock already"):
            writer.upgrade_nowait()
        writer.view[0] = 1
    async with reader as view:
        with pytest.raises(RuntimeError, match="reads already"):
            reader.downgrade()
        with pytest.raises(RuntimeError, match="await upgrade"):
            reader.upgrade_blocking()
        assert view[0] == 1


def test_what_a_thread_cannot_convert(region: Region):
    reader, writer = region.read_lock(), region.write_lock()
    with writer:
        with pytest.raises(RuntimeError, match="has the write lock already"):
            writer.upgrade_blocking()
    with reader as view:
        with pytest.raises(RuntimeError, match="reads already"):
            reader.downgrade()
        with pytest.raises(ValueError, match="timeout"):
            reader.upgrade_blocking(-1)
        assert view[0] == 0


async def test_a_threads_lock_is_not_upgraded_by_awaiting(region: Region):
    hold = region.read_lock()
    with hold as view:
        with pytest.raises(RuntimeError, match="use upgrade_blocking"):
            await hold.upgrade()
        assert view[0] == 0


async def test_a_task_that_reads_twice_would_wait_for_itself(region: Region):
    hold = region.read_lock()
    async with region.read_lock(), hold as view:
        with pytest.raises(RuntimeError, match="release the other one first"):
            await hold.upgrade()
        assert view[0] == 0
        with pytest.raises(RuntimeError, match="release the other one first"):
            hold.upgrade_nowait()
    async with hold:
        assert await hold.upgrade()


def test_a_thread_that_reads_twice_would_wait_for_itself(region: Region):
    hold = region.read_lock()
    with region.read_lock(), hold as view:
        with pytest.raises(RuntimeError, match="release the other one first"):
            hold.upgrade_blocking()
        assert view[0] == 0


async def test_a_task_that_writes_by_an_upgrade_is_refused_another_lock(region: Region):
    hold = region.read_lock()
    async with hold:
        await hold.upgrade()
        for lock in (region.write_lock, region.read_lock):
            with pytest.raises(RuntimeError, match="wait for itself"):
                async with lock():
                    pass


async def test_the_error_for_writing_while_reading_names_upgrade(region: Region):
    async with region.read_lock():
        with pytest.raises(RuntimeError, match="upgrade"):
            async with region.write_lock():
                pass


async def test_a_readonly_region_has_no_upgrade(region: Region):
    with Region.attach(region.name, readonly=True) as readonly:
        hold = readonly.read_lock()
        async with hold as view:
            with pytest.raises(PermissionError, match="readonly"):
                await hold.upgrade()
            assert view[0] == 0
        with hold as view:
            with pytest.raises(PermissionError, match="readonly"):
                hold.upgrade_blocking()
            assert view[0] == 0


async def test_a_closed_region_has_no_upgrade_but_a_downgrade(name: str):
    region = Region.create(name, 1)
    reader, writer = region.read_lock(), region.write_lock()
    async with reader as view:
        region.close()
        with pytest.raises(RegionClosedError):
            await reader.upgrade()
        assert view[0] == 0
    region = Region.attach(name)
    writer = region.write_lock()
    async with writer:
        region.close()
        writer.downgrade()
        assert writer.view.readonly


async def test_close_ends_an_upgrade_that_waits(region: Region, rival: Rival):
    async def upgrade() -> None:
        hold = region.read_lock()
        async with hold:
            await anyio.sleep(0.01)  # the other comes in
            with pytest.raises(RegionClosedError):
                await hold.upgrade()

    hold = region.read_lock()
    async with anyio.create_task_group() as group:
        group.start_soon(upgrade)
        async with hold:
            await until(lambda: queued(region))
            region.close()
    assert rival.do("try-exclusive") == "done"


async def test_a_truncated_region_is_not_upgraded(region: Region, rival: Rival):
    hold = region.read_lock()
    with pytest.raises(RegionSizeError):
        async with hold:
            rival.do("truncate 0")
            try:
                await hold.upgrade()
            finally:
                rival.do("truncate 8192")  # or the generation's page is gone
    assert rival.do("try-exclusive") == "done"


def test_a_forked_child_converts_nothing(region: Region):
    reader = region.read_lock()
    with reader:
        if (child := os.fork()) == 0:
            try:
                reader.upgrade_blocking()
            except RuntimeError as error:
                os._exit(0 if "before a fork" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert reader.upgrade_blocking() is True
        if (child := os.fork()) == 0:
            try:
                reader.downgrade()
            except RuntimeError as error:
                os._exit(0 if "before a fork" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
