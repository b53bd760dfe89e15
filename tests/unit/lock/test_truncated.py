"""Somebody has truncated the object: whoever asks for the lock is told, by every entrance."""

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
from rivals import Rival, blocked_in_flock
from waits import wait_until

from shm_async import Region, RegionSizeError, WouldBlockError

WHOLE = 8192  # bytes of the region: a page of data and the control page


SIZES = [
    pytest.param(0, id="nothing"),
    pytest.param(4096, id="data"),
    pytest.param(8191, id="most"),
]


@contextmanager
def truncated(region: Region, size: int) -> Iterator[None]:
    """A while in which the object has only so many bytes."""
    os.truncate(f"/dev/shm/{region.name}", size)
    try:
        yield
    finally:
        os.truncate(f"/dev/shm/{region.name}", WHOLE)


# ---- a free lock ---------------------------------------------------------------------


def enter(lock) -> None:
    with lock:
        pytest.fail("somebody was let in")


async def enter_async(lock) -> None:
    async with lock:
        pytest.fail("somebody was let in")


BLOCKING: dict[str, Callable[[Region], object]] = {
    "read": lambda region: enter(region.read_lock()),
    "write": lambda region: enter(region.write_lock()),
    "read with a timeout": lambda region: enter(region.read_lock(timeout=10)),
    "write with a timeout": lambda region: enter(region.write_lock(timeout=10)),
    "recover": lambda region: enter(region.write_lock(recover=True)),
    "transaction": lambda region: enter(region.transaction()),
    "acquire to read": lambda region: region.read_lock().acquire_blocking(),
    "acquire to write": lambda region: region.write_lock().acquire_blocking(),
    "read now": lambda region: region.read_lock().acquire_nowait(),
    "write now": lambda region: region.write_lock().acquire_nowait(),
    "recover now": lambda region: region.write_lock(recover=True).acquire_nowait(),
    "snapshot": lambda region: region.snapshot(),
    "snapshot into": lambda region: region.snapshot(into=bytearray(region.nbytes)),
    "generation": lambda region: region.generation,
}


ASYNC: dict[str, Callable[[Region], Awaitable[object]]] = {
    "read": lambda region: enter_async(region.read_lock()),
    "write": lambda region: enter_async(region.write_lock()),
    "read and yield": lambda region: enter_async(region.read_lock(fast_acquire=False)),
    "recover": lambda region: enter_async(region.write_lock(recover=True)),
    "transaction": lambda region: enter_async(region.transaction()),
    "acquire to read": lambda region: region.read_lock().acquire(),
    "acquire to write": lambda region: region.write_lock().acquire(),
    "snapshot": lambda region: region.snapshot_async(),
}


blocking = pytest.mark.parametrize("ask", BLOCKING.values(), ids=BLOCKING.keys())


in_a_loop = pytest.mark.parametrize("ask", ASYNC.values(), ids=ASYNC.keys())


@blocking
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("policy", ["raise", "ignore", lambda _hold: None])
def test_a_thread_is_told(name: str, ask, size: int, policy):
    with Region.create(name, 8, dtype="uint64", on_owner_death=policy) as region:
        with truncated(region, size):
            for _ in range(2):
                with pytest.raises(RegionSizeError, match="truncated"):
                    ask(region)
                assert region.holders() == ()
        with region.write_lock(timeout=1):
            pass


@in_a_loop
@pytest.mark.parametrize("size", SIZES)
async def test_a_task_is_told(region: Region, ask, size: int):
    with truncated(region, size):
        for _ in range(2):
            with pytest.raises(RegionSizeError, match="truncated"):
                await ask(region)
            assert region.holders() == ()
        for hold in (region.read_lock(), region.write_lock(), region.write_lock(recover=True)):
            with pytest.raises(RegionSizeError, match="truncated"):
                hold.acquire_nowait()
    async with region.write_lock():
        pass


def test_a_reader_who_may_not_write_is_told(region: Region):
    with Region.attach(region.name, readonly=True) as other, truncated(region, 0):
        for ask in (lambda: enter(other.read_lock()), other.snapshot, lambda: other.generation):
            with pytest.raises(RegionSizeError):
                ask()


def test_a_raw_region_is_looked_after_too(name: str):
    with Region.create(name, WHOLE, layout="raw") as region, truncated(region, WHOLE - 1):
        for lock in (region.read_lock(), region.write_lock(), region.transaction()):
            with pytest.raises(RegionSizeError):
                enter(lock)
        with pytest.raises(RegionSizeError):
            region.snapshot()


# ---- who reads and wants to write ------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_thread_that_upgrades_is_told_and_reads_no_more(region: Region, size: int):
    hold = region.read_lock()
    hold.acquire_blocking()
    with truncated(region, size):
        with pytest.raises(RegionSizeError):
            hold.upgrade_nowait()
        with pytest.raises(RegionSizeError):
            hold.upgrade_blocking(timeout=1)
        assert region.holders() == ()


@pytest.mark.parametrize("size", SIZES)
async def test_a_task_that_upgrades_is_told_and_reads_no_more(region: Region, size: int):
    hold = region.read_lock()
    await hold.acquire()
    with truncated(region, size):
        with pytest.raises(RegionSizeError):
            hold.upgrade_nowait()
        with pytest.raises(RegionSizeError):
            await hold.upgrade()
        assert region.holders() == ()


def test_a_thread_that_waits_to_upgrade_is_told(region: Region, rival: Rival):
    rival.do("shared")
    hold = region.read_lock()
    hold.acquire_blocking()

    def give_way() -> None:
        wait_until(lambda: blocked_in_flock(os.getpid()))
        rival.do("truncate 0")
        rival.do("unlock")

    thread = threading.Thread(target=give_way)
    thread.start()
    with pytest.raises(RegionSizeError):
        hold.upgrade_blocking(timeout=10)
    thread.join()
    rival.do(f"truncate {WHOLE}")


async def test_a_task_that_waits_to_upgrade_is_told(region: Region, rival: Rival):
    rival.do("shared")
    hold = region.read_lock()
    await hold.acquire()
    async with anyio.create_task_group() as group:

        async def upgrade() -> None:
            with pytest.raises(RegionSizeError):
                await hold.upgrade()

        group.start_soon(upgrade)
        with anyio.fail_after(10):
            while not blocked_in_flock(os.getpid()):
                await anyio.sleep(0.001)
        rival.do("truncate 0")
        rival.do("unlock")
    rival.do(f"truncate {WHOLE}")


# ---- who waits ---------------------------------------------------------------------------

WAITS = {key: ask for key, ask in BLOCKING.items() if key not in ("generation", "snapshot")}


@pytest.mark.parametrize(
    "ask",
    [ask for key, ask in WAITS.items() if not key.endswith(" now") and "snapshot" not in key],
    ids=[key for key in WAITS if not key.endswith(" now") and "snapshot" not in key],
)
def test_a_thread_is_told_that_is_granted_what_is_no_more(region: Region, rival: Rival, ask):
    rival.do("exclusive")

    def give_way() -> None:
        wait_until(lambda: blocked_in_flock(os.getpid()))
        rival.do("truncate 0")
        rival.do("unlock")

    thread = threading.Thread(target=give_way)
    thread.start()
    with pytest.raises(RegionSizeError):
        ask(region)
    thread.join()
    assert region.holders() == ()
    rival.do(f"truncate {WHOLE}")


@in_a_loop
async def test_a_task_is_told_that_is_granted_what_is_no_more(region: Region, rival: Rival, ask):
    rival.do("exclusive")
    if ask is ASYNC["snapshot"]:  # which waits for the read lock where a writer left its mark
        with open(f"/dev/shm/{region.name}", "r+b") as file:
            file.seek(4096 + 128)
            file.write(b"\1")

    async def want() -> None:
        with pytest.raises(RegionSizeError):
            await ask(region)

    async with anyio.create_task_group() as group:
        group.start_soon(want)
        with anyio.fail_after(10):
            while not blocked_in_flock(os.getpid()):
                await anyio.sleep(0.001)
        rival.do("truncate 0")
        rival.do("unlock")
    assert region.holders() == ()
    rival.do(f"truncate {WHOLE}")


async def test_a_reader_in_the_queue_of_its_loop_is_told(region: Region):
    """It would be let in by the one before it, and the kernel not be asked."""
    outcomes: list[str] = []

    async def read() -> None:
        with pytest.raises(RegionSizeError):
            await region.read_lock().acquire()
        outcomes.append("told")

    first = region.read_lock()
    await first.acquire()
    async with anyio.create_task_group() as group:
        region._table.cohort.max_share = (
            0  # as after 2 ms: nobody joins the readers inside any more
        )
        group.start_soon(read)
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with truncated(region, 0):
            first.release()
            await anyio.wait_all_tasks_blocked()
            assert outcomes == ["told", "told"]
    assert region.holders() == ()


async def test_a_reader_behind_a_writer_that_gives_up_is_told(region: Region):
    first = region.read_lock()
    await first.acquire()
    async with anyio.create_task_group() as group:
        giving_up = anyio.CancelScope()

        async def write() -> None:
            with giving_up:
                await region.write_lock().acquire()

        async def read() -> None:
            with pytest.raises(RegionSizeError):
                await region.read_lock().acquire()

        group.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with truncated(region, 0):
            giving_up.cancel()
            await anyio.wait_all_tasks_blocked()
        first.release()


async def test_a_writer_behind_a_transaction_is_told_and_so_is_the_transaction(region: Region):
    async def write() -> None:
        with pytest.raises(RegionSizeError):
            await region.write_lock().acquire()

    async with anyio.create_task_group() as group:
        with pytest.raises(RegionSizeError):
            async with region.transaction() as view:
                view[0] = 1
                group.start_soon(write)
                await anyio.wait_all_tasks_blocked()
                os.truncate(f"/dev/shm/{region.name}", 0)
    os.truncate(f"/dev/shm/{region.name}", WHOLE)
    assert region.holders() == ()


# ---- who is inside -------------------------------------------------------------------------


async def join_readers(region: Region) -> None:
    """A second reader of the same loop asks nobody, neither here nor in the kernel."""
    async with region.read_lock():
        os.truncate(f"/dev/shm/{region.name}", 0)
        await asyncio.create_task(enter_async(region.read_lock()))


def killed_inside(region: Region, kind: str) -> int:
    """The signal that ends a process which is inside when the object is truncated."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)  # a sanitizer has its own
            if kind == "join":
                asyncio.run(join_readers(region))
            with region.read_lock() if kind == "read" else region.write_lock() as view:
                os.truncate(f"/dev/shm/{region.name}", 0)
                if kind != "write nothing":
                    view[0]
        finally:
            os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", ["read", "write", "write nothing", "join"])
def test_who_is_inside_when_it_happens_is_killed_by_the_kernel(region: Region, kind: str):
    assert killed_inside(region, kind) == signal.SIGBUS
    os.truncate(f"/dev/shm/{region.name}", WHOLE)


def test_a_reader_that_looks_no_more_can_leave(region: Region):
    with region.read_lock(), truncated(region, 0):
        pass
    with pytest.raises(WouldBlockError), region.read_lock():
        region.write_lock().acquire_nowait()
