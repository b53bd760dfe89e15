"""Who holds a lock: the thread or task whose block it is; after acquire() nobody for certain."""

import os
import threading
import time
from collections.abc import Callable

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from cohorts import asking, queued, until_blocked
from rivals import blocked_in_flock
from waits import until, wait_until

from shm_async import Hold, LockTimeoutError, Region, WouldBlockError
from shm_async._lock import members, owners, seat, ways

#: Tests that block the thread of their event loop for a moment.
blocks_the_loop = pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")


async def write(region: Region) -> None:
    async with region.write_lock():
        pass


async def read(region: Region) -> None:
    async with region.read_lock():
        pass


# ---- what is certain ---------------------------------------------------------------------------


CLASHES = [("read", "write"), ("write", "read"), ("write", "write")]


def lock(region: Region, kind: str, **options: float) -> Hold:
    return region.read_lock(**options) if kind == "read" else region.write_lock(**options)


@pytest.mark.parametrize(("first", "then"), CLASHES)
def test_a_thread_in_its_own_block_is_told(region: Region, second: Region, first: str, then: str):
    with lock(region, first):
        with pytest.raises(RuntimeError, match=r"this thread holds .*upgrade_blocking\(\)"):
            lock(second, then).acquire_blocking()
        with pytest.raises(RuntimeError, match="this thread holds"), lock(second, then):
            pytest.fail("two are inside")
        with pytest.raises(LockTimeoutError), lock(second, then, timeout=0.01):
            pytest.fail("two are inside")
        with pytest.raises(LockTimeoutError):
            lock(second, then).acquire_blocking(timeout=0.01)
        with pytest.raises(WouldBlockError):
            lock(second, then).acquire_nowait()
    with region.write_lock():
        pass


@blocks_the_loop
@pytest.mark.parametrize(("first", "then"), CLASHES)
async def test_a_task_in_its_own_block_is_told(
    region: Region, second: Region, first: str, then: str
):
    async with lock(region, first):
        with anyio.fail_after(5):
            with pytest.raises(RuntimeError, match="wait for itself"):
                await lock(second, then).acquire()
            with pytest.raises(RuntimeError, match="wait for itself"):
                async with lock(second, then):
                    pytest.fail("two are inside")
        with pytest.raises(RuntimeError, match="event loop holds"), lock(second, then):
            pytest.fail("two are inside")
        with pytest.raises(LockTimeoutError), lock(second, then, timeout=0.01):
            pytest.fail("two are inside")
        with pytest.raises(WouldBlockError):
            lock(second, then).acquire_nowait()
    async with region.write_lock():
        pass


# ---- what is not certain -----------------------------------------------------------------------


async def test_what_a_pool_thread_acquired_is_waited_for_in_that_thread(region: Region):
    """The thread that acquired it is used again, for one who waits for it to be released."""
    hold, again = region.write_lock(), region.write_lock()
    limiter = anyio.CapacityLimiter(1)
    await anyio.to_thread.run_sync(hold.acquire_blocking, limiter=limiter)
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            await anyio.to_thread.run_sync(again.acquire_blocking, limiter=limiter)

        group.start_soon(wait)
        await until(lambda: region.statistics().waiting)
        hold.release()
    again.release()


async def test_what_a_task_acquired_is_waited_for_by_that_task(region: Region):
    hold = region.write_lock()
    await hold.acquire()
    async with anyio.create_task_group() as group:

        async def release() -> None:
            await until(lambda: queued(region) == 1)
            hold.release()

        group.start_soon(release)
        async with region.write_lock():
            pass


async def acquired_by_an_ended_task(region: Region) -> Hold:
    hold = region.read_lock()
    async with anyio.create_task_group() as group:
        group.start_soon(hold.acquire)
    return hold


async def acquired_by_a_task_that_goes_on(region: Region) -> Hold:
    hold = region.read_lock()
    inside = anyio.Event()

    async def run() -> None:
        await hold.acquire()
        inside.set()
        await _over.wait()

    _tasks.start_soon(run)
    await inside.wait()
    return hold


async def acquired_here(region: Region) -> Hold:
    hold = region.read_lock()
    await hold.acquire()
    return hold


async def acquired_in_a_thread(region: Region) -> Hold:
    hold = region.read_lock()
    await anyio.to_thread.run_sync(hold.acquire_blocking)
    return hold


_tasks: anyio.abc.TaskGroup
_over: anyio.Event  # what such a task goes on until


@pytest.mark.parametrize(
    "acquired",
    [
        acquired_by_an_ended_task,
        acquired_by_a_task_that_goes_on,
        acquired_here,
        acquired_in_a_thread,
    ],
)
async def test_a_reader_who_was_handed_a_read_lock_may_read_again(
    region: Region, second: Region, acquired, monkeypatch: pytest.MonkeyPatch
):
    global _tasks, _over
    for module in (members, seat, ways):  # the next test waits for as long as users do
        monkeypatch.setattr(module, "HANDED_ON", 0.1)
    async with anyio.create_task_group() as group:
        _tasks, _over = group, anyio.Event()
        hold = await acquired(region)
        group.start_soon(write, second)
        await until(lambda: queued(second) == 1)
        with anyio.fail_after(10):
            await read(second)
        hold.release()
        _over.set()


def test_a_thread_that_was_handed_a_read_lock_may_read_again(region: Region):
    hold = region.read_lock()
    leave = threading.Event()
    thread = threading.Thread(target=lambda: (hold.acquire_blocking(), leave.wait(10)))
    thread.start()
    wait_until(lambda: "reading" in repr(hold))
    blocked = threading.Thread(target=write_and_leave, args=[region])
    blocked.start()
    wait_until(lambda: region.statistics().waiting == 1)
    with region.read_lock(timeout=5):
        pass
    hold.release()
    leave.set()
    thread.join()
    blocked.join(10)
    assert not blocked.is_alive()


LONG = 0.1  # seconds for which a lock is held; a reader waits longer than that before it believes


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader waits so long that a machine that is late does not matter."""
    assert owners.HANDED_ON > LONG
    for module in (members, seat, ways):
        monkeypatch.setattr(module, "HANDED_ON", 30.0)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("acquired", [acquired_by_a_task_that_goes_on, acquired_in_a_thread])
async def test_a_lock_that_may_be_handed_on_lets_no_reader_overtake(
    region: Region, second: Region, acquired
):
    global _tasks, _over
    order: list[str] = []

    async def log(lock: Callable[[], Hold]) -> None:
        async with lock():
            order.append(lock.__name__)

    async with anyio.create_task_group() as group:
        _tasks, _over = group, anyio.Event()
        hold = await acquired(region)
        group.start_soon(log, second.write_lock)
        await until(lambda: queued(second) == 1)
        if asking(second):  # it waits in the kernel, not for a reader of its own event loop
            await until_blocked()
        for each in (region, second):
            group.start_soon(log, each.read_lock)
        await anyio.sleep(LONG)
        assert order == []
        hold.release()
        _over.set()
    assert order == ["write_lock", "read_lock", "read_lock"]


@pytest.mark.usefixtures("patience")
def test_a_lock_that_may_be_handed_on_lets_no_reading_thread_overtake(region: Region):
    order: list[str] = []

    def log(lock: Callable[[], Hold]) -> None:
        with lock():
            order.append(lock.__name__)

    hold = region.read_lock()
    hold.acquire_blocking()
    threads = [
        threading.Thread(target=log, args=[lock])
        for lock in (region.write_lock, region.read_lock, region.read_lock)
    ]
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda waiting=waiting: region.statistics().waiting == waiting)
        wait_until(lambda: blocked_in_flock(os.getpid()))  # the writer has the gate
    time.sleep(LONG)
    assert order == []
    hold.release()
    for thread in threads:
        thread.join(10)
    assert order == ["write_lock", "read_lock", "read_lock"]


async def test_a_newcomer_does_not_pass_a_writer_because_another_reader_has_waited_for_long(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    """The one that waits for long may have been handed the lock; the newcomer has to show it."""
    later: list[Callable[[], None]] = []
    order: list[str] = []
    hold = region.read_lock()
    await hold.acquire()
    cohort = region._table.cohort
    monkeypatch.setattr(
        type(cohort.loop), "call_later", lambda _loop, _seconds, callback: later.append(callback)
    )

    async def log(lock: Callable[[], Hold]) -> None:
        async with lock():
            order.append(lock.__name__)

    async with anyio.create_task_group() as group:
        group.start_soon(log, region.write_lock)
        await until(lambda: queued(region) == 1)
        for waiting in (2, 3):
            group.start_soon(log, region.read_lock)
            await until(lambda waiting=waiting: queued(region) == waiting)
        later[0]()
        await until(lambda: order)
        assert (order, queued(region)) == (["read_lock"], 2)
        hold.release()
    assert order == ["read_lock", "write_lock", "read_lock"]


async def test_a_read_past_the_queue_lets_no_other_task_pass(region: Region, other: Region):
    """It stands on a seat of the thread, where all tasks of the loop run; and is that task's."""
    order: list[str] = []

    async def log(lock: Callable[[], Hold]) -> None:
        async with lock():
            order.append(lock.__name__)

    async with anyio.create_task_group() as group:
        async with other.read_lock():
            group.start_soon(log, region.write_lock)
            await until(lambda: queued(region) == 1)
            async with region.read_lock():
                group.start_soon(log, region.read_lock)
                await until(lambda: queued(region) == 2 or order)
            assert order == []
    assert order == ["write_lock", "read_lock"]


def write_and_leave(region: Region) -> None:
    with region.write_lock():
        pass


async def test_a_reader_does_not_pass_a_writer_because_of_blocks_of_others(region: Region):
    """Only what was acquired without a block may have been handed over."""
    leave = anyio.Event()

    async def read_long() -> None:
        async with region.read_lock():
            await leave.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(read_long)
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.01)
        group.start_soon(write, region)
        await until(lambda: queued(region) == 1)
        with anyio.move_on_after(0.2) as scope:
            await read(region)
        assert scope.cancelled_caught
        leave.set()


async def test_a_nested_read_through_two_regions_passes_a_writer(region: Region, other: Region):
    for first, then in ((region, other), (other, region)):
        for writes in (region, other):
            async with anyio.create_task_group() as group, first.read_lock():
                group.start_soon(write, writes)
                await until(lambda writes=writes: queued(writes) == 1)
                with anyio.fail_after(5):
                    async with then.read_lock() as view:
                        assert view.readonly
                    hold = then.read_lock()
                    await hold.acquire()
                    hold.release()


def test_a_nested_read_of_a_thread_through_two_regions_passes_a_writer(
    region: Region, other: Region
):
    writer = threading.Thread(target=write_and_leave, args=[other])
    with region.read_lock():
        writer.start()
        wait_until(lambda: blocked_in_flock(os.getpid()))
        with other.read_lock(timeout=5), region.read_lock(timeout=5):
            pass
    writer.join(10)
    assert not writer.is_alive()
