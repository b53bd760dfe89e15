"""Conversions: a reader becomes the writer, the writer a reader, and who is told what."""

import os

import anyio
import anyio.lowlevel
import pytest
from cohorts import queued
from rivals import Rival
from waits import until

from shm_async import Region, RegionClosedError, RegionSizeError, WouldBlockError
from shm_async._lock import cohort, members, seat

# ---- upgrade_nowait ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("others", [False, True], ids=["alone", "another process reads"])
async def test_an_exception_right_after_the_kernel_converted_leaves_the_truth(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch, others: bool
):
    """As Ctrl-C does: the hold has the lock that the kernel left it, or none."""
    if others:
        assert rival.do("shared") == "done"
    for module in (seat, cohort):
        genuine = module.lock_upgrade

        def interrupted(handle: object, genuine=genuine) -> int:
            genuine(handle)
            raise KeyboardInterrupt

        monkeypatch.setattr(module, "lock_upgrade", interrupted)
    in_loop, in_thread = region.read_lock(), region.read_lock()
    await in_loop.acquire()
    with pytest.raises(KeyboardInterrupt):
        in_loop.upgrade_nowait()
    assert ("free" in repr(in_loop)) == others
    if not others:
        in_loop.release()
    await anyio.to_thread.run_sync(in_thread.acquire_blocking)
    with pytest.raises(KeyboardInterrupt):
        await anyio.to_thread.run_sync(in_thread.upgrade_nowait)
    assert ("free" in repr(in_thread)) == others
    if not others:
        in_thread.release()
    if others:
        assert rival.do("unlock") == "done"
    assert rival.do("try-exclusive") == "done"
    assert rival.do("unlock") == "done"


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


# ---- downgrade ---------------------------------------------------------------------------------


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
    monkeypatch.setattr(members, "MAX_SHARE", 60)  # this test is slower than most holds
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


# ---- what is refused ---------------------------------------------------------------------------


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
        with pytest.raises(WouldBlockError) as caught:
            hold.upgrade_nowait()
        assert caught.value.still_held
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
