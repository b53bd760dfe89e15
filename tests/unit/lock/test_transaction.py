"""Transactions: all or nothing, whatever ends them."""

import contextlib
import gc
import os
import signal
import threading

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from dying import writer_dies
from rivals import Rival
from waits import wait_until

from shm_async import (
    LockTimeoutError,
    OwnerDiedError,
    Region,
    RegionClosedError,
    RegionSizeError,
)
from shm_async._lock.transaction import Transaction


@contextlib.asynccontextmanager
async def opened(transaction: Transaction, way: str):
    """Enter it as a coroutine or as a thread does."""
    if way == "async":
        async with transaction as view:
            yield view
    else:
        with transaction as view:
            yield view


BOTH = pytest.mark.parametrize("way", ["async", "with"])


@BOTH
async def test_what_was_written_goes_in_at_the_end(region: Region, way: str):
    region.buffer[7] = 70
    async with opened(region.transaction(), way) as view:
        assert (view.format, view.shape, view.readonly) == ("Q", (8,), False)
        assert list(view) == [0] * 7 + [70]
        view[0], view[7] = 1, 71
        assert list(region.buffer) == [0] * 7 + [70]
        assert region.generation == 0
    assert list(region.buffer) == [1] + [0] * 6 + [71]
    assert region.generation == 2
    with pytest.raises(ValueError, match="released"):
        view[0]


@BOTH
async def test_an_exception_leaves_the_region_as_it_was(region: Region, rival: Rival, way: str):
    with pytest.raises(ZeroDivisionError):
        async with opened(region.transaction(), way) as view:
            view[0] = 1
            raise ZeroDivisionError
    assert region.buffer[0] == 0
    assert region.generation == 0
    assert rival.do("try-exclusive") == "done"


async def test_a_cancellation_leaves_the_region_as_it_was(region: Region, rival: Rival):
    with anyio.CancelScope() as scope:
        async with region.transaction() as view:
            view[0] = 1
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert region.buffer[0] == 0
    assert rival.do("try-exclusive") == "done"


@BOTH
async def test_a_death_in_the_block_leaves_the_region_sound_and_as_it_was(
    region: Region, run_python, way: str
):
    program = f"""
import asyncio, os, signal, sys
from shm_async import Region
region = Region.attach(sys.argv[1])
async def main():
    {"async " if way == "async" else ""}with region.transaction() as view:
        view[0] = 1
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    assert run_python(program).returncode == -signal.SIGKILL
    with region.read_lock() as view:
        assert view[0] == 0
    assert region.generation == 0


def test_a_death_while_it_goes_in_is_told(name: str):
    size = 24 << 20  # fits into the /dev/shm of a container
    with Region.create(name, size) as region:
        for _ in range(20):
            if (child := os.fork()) == 0:
                with region.transaction() as view:
                    view[:] = b"x" * size
                os._exit(0)
            while (
                region.generation % 2 == 0
                and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                pass
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if region.generation % 2:
                break
            region.buffer[:] = bytes(size)
        with pytest.raises(OwnerDiedError, match=f"process {child} died"):
            region.transaction().__enter__()
        with pytest.raises(OwnerDiedError):
            region.snapshot()


@pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")  # on purpose
async def test_it_excludes_readers_and_writers(region: Region, rival: Rival):
    async with region.transaction():
        assert rival.do("try-shared") == "busy"
    with region.transaction():
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"
    with pytest.raises(LockTimeoutError):
        region.transaction(timeout=0.01).__enter__()


async def test_it_waits_its_turn_and_loses_no_update(region: Region):
    async def count(turns: int) -> None:
        for turn in range(turns):
            if turn % 2:
                async with region.transaction() as view:
                    view[0] += 1
                    await anyio.lowlevel.checkpoint()
            else:
                async with region.write_lock() as view:
                    view[0] += 1
                    await anyio.lowlevel.checkpoint()

    def count_here() -> None:
        for _ in range(50):
            with region.transaction() as view:
                view[0] += 1

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(count, 50)
        group.start_soon(anyio.to_thread.run_sync, count_here)
    assert region.buffer[0] == 250
    assert region.generation == 500
    assert region.statistics().writes == 250


async def test_it_yields_when_asked_to_and_takes_no_timeout_in_a_coroutine(region: Region):
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with region.transaction(fast_acquire=False):
            raise AssertionError("it did not yield")
    with pytest.raises(TypeError, match="fail_after"):
        async with region.transaction(timeout=1):
            pass
    for timeout, error in (("1", TypeError), (-1, ValueError)):
        with pytest.raises(error):
            region.transaction(timeout=timeout)


def test_one_that_changes_nothing_does_not_count_as_a_write(region: Region):
    region.buffer[3] = 3
    with region.transaction() as view:
        view[3] = 3
    assert region.generation == 0


@pytest.mark.parametrize("changes", [[0], [1023], [511], [0, 1023], [255, 256], [31, 32, 900]])
def test_only_what_changed_is_written(name: str, changes: list[int]):
    with Region.create(name, 1024, dtype="uint8") as region:
        before = bytes(range(256)) * 4
        region.buffer[:] = before
        with region.transaction() as view:
            for place in changes:
                view[place] ^= 255
            # nobody may do that under the lock; here it shows what is not copied
            outside = [place for place in range(1024) if not changes[0] <= place <= changes[-1]]
            for place in outside:
                region.buffer[place] ^= 255
        for place in range(1024):
            turned = place in changes or place in outside
            if changes[0] <= place <= changes[-1] or not outside:
                assert region.buffer[place] == before[place] ^ (255 if turned else 0)


async def test_a_transaction_finds_a_dead_writer_and_may_repair(region: Region):
    writer_dies(region)
    with pytest.raises(OwnerDiedError):
        async with region.transaction():
            pass
    with pytest.raises(OwnerDiedError):
        with region.transaction():
            pass

    def repair(hold) -> None:
        hold.view[0] = 7

    with Region.attach(region.name, on_owner_death=repair) as mended:
        async with mended.transaction() as view:
            assert view[0] == 7
            view[0] = 8
    with region.read_lock() as view:
        assert view[0] == 8


def test_where_deaths_are_ignored_only_a_commit_ends_one(region: Region):
    with Region.attach(region.name, on_owner_death="ignore") as careless:
        writer_dies(region)
        with pytest.raises(ZeroDivisionError):
            with careless.transaction():
                raise ZeroDivisionError
        with pytest.raises(OwnerDiedError):
            region.read_lock().acquire_blocking()
        with careless.transaction() as view:
            view[0] = 2
    with region.read_lock() as view:
        assert view[0] == 2


def test_a_raw_region_has_transactions_too(name: str):
    with Region.create(name, 5, layout="raw", dtype="uint16") as region:
        with region.transaction() as view:
            view[4] = 4
        with pytest.raises(ZeroDivisionError):
            with region.transaction() as view:
                view[4] = 5
                raise ZeroDivisionError
        assert list(region.buffer) == [0, 0, 0, 0, 4]


def test_a_readonly_region_has_none(region: Region):
    with Region.attach(region.name, readonly=True) as reader:
        with pytest.raises(PermissionError, match="readonly"):
            reader.transaction()


def test_a_truncated_region_is_told_and_not_touched(region: Region, rival: Rival):
    with pytest.raises(RegionSizeError):
        with region.transaction() as view:
            view[0] = 1
            rival.do("truncate 0")
    rival.do("truncate 8192")
    assert rival.do("try-exclusive") == "done"


async def test_an_array_that_outlives_the_block_is_stale(region: Region):
    async with region.transaction() as view:
        array = np.asarray(view)
        array[0] = 5
    array[0] = 6
    assert region.buffer[0] == 5


@BOTH
async def test_it_can_be_used_again_but_not_twice_at_once(region: Region, way: str):
    transaction = region.transaction()
    for _ in range(2):
        async with opened(transaction, way) as view:
            view[0] += 1
            with pytest.raises(RuntimeError, match="in use"):
                async with opened(transaction, way):
                    pass
    assert region.buffer[0] == 2


async def test_a_task_does_not_wait_for_itself(region: Region):
    async with region.transaction():
        with pytest.raises(RuntimeError, match="would wait for itself"):
            async with region.read_lock():
                pass


def test_a_region_that_is_closed_meanwhile_still_gets_it(region: Region, name: str):
    with Region.attach(name) as other:
        with region.transaction() as view:
            view[0] = 1
            region.close()
        assert other.buffer[0] == 1
    with pytest.raises(RegionClosedError):
        region.transaction()


async def test_close_ends_a_wait(region: Region, rival: Rival):
    rival.do("exclusive")
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            with pytest.raises(RegionClosedError):
                async with region.transaction():
                    pass

        group.start_soon(wait)
        await anyio.sleep(0.01)
        region.close()


def test_a_forked_child_commits_nothing(region: Region):
    status = 1
    try:
        with region.transaction() as view:
            view[0] = 1
            if child := os.fork():
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert region.buffer[0] == 0
            else:
                view[0] = 2
        status = 0  # it left in peace
    finally:
        if not child:
            os._exit(status)
    assert region.buffer[0] == 1
    assert region.generation == 2


def test_one_that_is_dropped_commits_nothing(region: Region, rival: Rival):
    transaction = region.transaction()
    view = transaction.__enter__()
    view[0] = 1
    with pytest.warns(ResourceWarning, match="dropped while held"):
        del transaction
        gc.collect()
    assert region.buffer[0] == 0
    assert rival.do("try-exclusive") == "done"


async def test_a_commit_hands_the_lock_on(region: Region):
    seen = []

    async def read() -> None:
        async with region.read_lock() as view:
            seen.append(view[0])

    async with anyio.create_task_group() as group:
        async with region.transaction() as view:
            view[0] = 1
            group.start_soon(read)
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
    assert seen == [1, 1]


def test_its_repr_tells_where_it_stands(region: Region):
    transaction = region.transaction()
    assert repr(transaction) == f"<Transaction of {region.name!r}, free>"
    with transaction:
        assert repr(transaction) == f"<Transaction of {region.name!r}, writing>"


def test_a_signal_handlers_exception_between_the_threads_ends_it(region: Region, rival: Rival):
    rival.do("exclusive")
    before = signal.signal(signal.SIGUSR1, lambda *_: 1 / 0)
    try:
        main = threading.main_thread().ident
        timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        timer.start()
        with pytest.raises(ZeroDivisionError):
            with region.transaction():
                pass
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    rival.do("unlock")
    wait_until(lambda: rival.do("try-exclusive") == "done")
