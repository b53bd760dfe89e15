"""The gate: newcomers do not overtake, and nobody who sleeps or dies there blocks the others."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from hints import hint, set_hint
from rivals import Rival, blocked_in_flock
from waits import until, wait_until

from shm_async import Region, WouldBlockError
from shm_async._lock import members

# ---- newcomers queue -------------------------------------------------------------------


async def test_readers_do_not_pass_a_writer_that_waits_elsewhere(
    region: Region, other: Region, rival: Rival
):
    order = []

    async def write() -> None:
        async with region.write_lock():
            order.append("writer")

    async def read() -> None:
        async with other.read_lock():
            order.append("reader")

    rival.do("shared")
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        while not hint(region) or not blocked_in_flock(os.getpid()):
            await anyio.sleep(0.001)
        with pytest.raises(WouldBlockError):
            other.read_lock().acquire_nowait()
        group.start_soon(read)
        await anyio.sleep(0.05)
        assert order == []  # the flock itself would have let the reader in
        rival.do("unlock")
    assert order == ["writer", "reader"]
    assert hint(region) == 0


def test_threads_queue_as_well(region: Region, rival: Rival):
    order = []

    def write() -> None:
        with region.write_lock():
            order.append("writer")

    def read() -> None:
        with region.read_lock():
            order.append("reader")

    rival.do("shared")
    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    threads[0].start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    threads[1].start()
    time.sleep(0.05)
    assert order == []
    rival.do("unlock")
    for thread in threads:
        thread.join()
    assert order == ["writer", "reader"]
    assert hint(region) == 0


async def test_new_readers_stop_joining_once_somebody_is_at_the_gate(region: Region, other: Region):
    """However short the readers are apart, a writer of another process gets in between."""
    stop = False
    reads = 0

    async def read() -> None:
        nonlocal reads
        while not stop:
            async with region.read_lock():
                reads += 1
                await anyio.sleep(0.001)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(read)
        await until(lambda: reads > 20)
        for number in range(20):
            with anyio.fail_after(10):
                async with other.write_lock() as view:
                    view[0] = number
        stop = True
    assert region.buffer[0] == 19


FLOOD = """
import sys, threading, time
import anyio
from shm_async import Region
region = Region.attach(sys.argv[1])
async def read():
    while True:
        async with region.read_lock():
            await anyio.sleep(0.001)
async def main():
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(read)
        print("reading", flush=True)
anyio.run(main)
"""


def test_a_writer_is_not_starved_by_two_processes_of_readers(region: Region):
    readers = [
        subprocess.Popen([sys.executable, "-c", FLOOD, region.name], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"reading\n"
        for _ in range(20):
            with region.write_lock(timeout=10) as view:
                view[0] += 1
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
            assert reader.stdout is not None
            reader.stdout.close()


def test_a_nested_read_passes_a_writer_at_the_gate(region: Region, other: Region):
    def write() -> None:
        with other.write_lock():
            pass

    writer = threading.Thread(target=write)
    with region.read_lock():
        writer.start()
        wait_until(lambda: hint(region) == 1)
        for each in (region, other):
            assert in_another_thread(each.read_lock().acquire_nowait) is WouldBlockError
            with each.read_lock(timeout=5) as view:
                assert view[0] == 0
    writer.join()


def in_another_thread(function: Callable[[], object]) -> type[BaseException] | None:
    """Call it there and return the type of what it raised."""
    raised: list[type[BaseException]] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(type(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


async def test_a_task_may_read_while_its_thread_reads(region: Region, other: Region):
    def write() -> None:
        with other.write_lock():
            pass

    writer = threading.Thread(target=write)
    with region.read_lock():
        writer.start()
        await anyio.to_thread.run_sync(wait_until, lambda: hint(region) == 1)
        with anyio.fail_after(5):
            async with region.read_lock() as view:
                assert view[0] == 0
    await anyio.to_thread.run_sync(writer.join)


# ---- the hint ---------------------------------------------------------------------------


def test_a_stale_hint_is_found_and_repaired(region: Region):
    for acquire in ("acquire_nowait", "acquire_blocking"):
        set_hint(region, 1)
        hold = region.read_lock()
        getattr(hold, acquire)()
        hold.release()
        assert hint(region) == 0


async def test_a_stale_hint_is_repaired_by_a_task_without_waiting(region: Region):
    set_hint(region, 77)
    async with region.write_lock():
        assert hint(region) == 0


WAITS = """
import sys
from shm_async import Region
region = Region.attach(sys.argv[1])
print("waits", flush=True)
with region.write_lock():
    print("inside", flush=True)
"""


@pytest.fixture
def waiter(region: Region) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that waits at the gate for the write lock."""
    process = subprocess.Popen([sys.executable, "-c", WAITS, region.name], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"waits\n"
    wait_until(lambda: hint(region) == 1)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def busy(region: Region, rival: Rival) -> Rival:
    """The rival has the lock before anybody else comes."""
    rival.do("exclusive")
    return rival


def test_one_who_was_killed_at_the_gate_is_forgotten(
    region: Region, busy: Rival, waiter: subprocess.Popen[bytes]
):
    waiter.kill()
    waiter.wait()
    busy.do("unlock")
    assert hint(region) == 1  # nobody was there to clear it
    with region.write_lock():
        pass
    assert hint(region) == 0


async def test_one_who_is_stopped_at_the_gate_delays_the_others_only(
    region: Region, busy: Rival, waiter: subprocess.Popen[bytes]
):
    waiter.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{waiter.pid}/stat")
    # a signal takes its time: one that is not stopped yet would get the lock and keep it
    await anyio.to_thread.run_sync(wait_until, lambda: stat.read_text().split()[2] == "T")
    busy.do("unlock")
    for _ in range(3):
        with anyio.fail_after(10):
            async with region.write_lock() as view:
                view[0] += 1
            async with region.read_lock():
                pass

    def thread() -> None:
        with region.write_lock(timeout=10) as view:
            view[0] += 1
        with region.read_lock(timeout=10):
            pass

    await anyio.to_thread.run_sync(thread)
    waiter.send_signal(signal.SIGCONT)
    assert waiter.stdout is not None
    assert await anyio.to_thread.run_sync(waiter.stdout.readline) == b"inside\n"
    assert region.buffer[0] == 4


# ---- without a control page -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")  # on purpose
async def test_the_kernel_is_asked_where_there_is_no_hint(raw: Region):
    rival = Rival(raw.name)
    rival.do("gate")
    with pytest.raises(WouldBlockError):
        raw.read_lock().acquire_nowait()
    with raw.read_lock(timeout=5):  # whoever is at the gate does not take the free lock
        pass
    with anyio.fail_after(5):
        async with raw.write_lock():
            pass
    rival.do("leave")
    hold = raw.read_lock()
    hold.acquire_nowait()
    hold.release()
    rival.close()


async def test_a_readonly_region_waits_at_the_gate_too(region: Region, rival: Rival):
    with Region.attach(region.name, readonly=True) as reader:
        rival.do("gate")
        set_hint(region, 1)
        with pytest.raises(WouldBlockError):
            reader.read_lock().acquire_nowait()
        with anyio.fail_after(5):
            async with reader.read_lock():
                pass
        rival.do("leave")
        hold = reader.read_lock()
        hold.acquire_nowait()
        hold.release()


@pytest.mark.parametrize("known", [False, True])
async def test_no_reader_joins_those_of_its_loop_while_another_process_waits(
    region: Region,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
):
    """Whether it is known since when they read, as others have joined, or not."""
    monkeypatch.setattr(members, "MAX_SHARE", 0.005)
    leave = anyio.Event()

    async def read() -> None:
        async with region.read_lock():
            await leave.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        process = request.getfixturevalue("waiter")
        cohort = region._table.cohort
        cohort.share_until = time.monotonic() + cohort.max_share if known else 0.0
        with anyio.move_on_after(0.05) as scope:
            async with region.read_lock():
                raise AssertionError("it overtook a writer")
        assert scope.cancelled_caught
        leave.set()
    assert await anyio.to_thread.run_sync(process.stdout.readline) == b"inside\n"
