"""Waits that last too long are logged while they last, with the lines of both sides."""

import gc
import inspect
import logging
import os
import re
import threading
import weakref

import anyio
import pytest
from rivals import Rival
from waits import wait_until

from shm_async import LockTimeoutError, Region

HERE = __file__


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture):
    """The messages of the logger "shm_async" so far."""
    caplog.set_level(logging.WARNING, "shm_async")
    return lambda: [each.getMessage() for each in caplog.records if each.name == "shm_async"]


def line() -> int:
    """The line that calls this."""
    return inspect.currentframe().f_back.f_lineno


async def until(condition) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


def test_it_is_off_by_default_and_checked(region: Region):
    assert region.slow_wait is None
    region.slow_wait = 0.5
    assert region.slow_wait == 0.5
    region.slow_wait = None
    assert region.slow_wait is None
    with pytest.raises(ValueError, match="negative"):
        region.slow_wait = -1
    with pytest.raises(TypeError, match="number of seconds"):
        region.slow_wait = "soon"


async def test_a_holder_that_awaits_a_waiter_is_told_of_with_both_lines(region: Region, logged):
    region.slow_wait = 0.02
    lines = {}

    async def child() -> None:
        lines["waiter"] = line() + 1
        async with region.write_lock():
            pass

    async with region.write_lock():
        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(child, name="the child")
                lines["holder"] = line() + 1
                await until(logged)
                scope.cancel()
    (said,) = logged()
    assert "the child" in said
    assert f"{HERE}:{lines['waiter']} in child has been waiting for the write lock" in said
    held_by = said.partition("held by: ")[2]
    assert held_by.startswith(f"process {os.getpid()} (")
    assert re.search(r"write lock, for \d+\.\d+ s", held_by)
    assert f"{HERE}:" in held_by


async def test_a_suspended_holder_is_told_of_at_its_line(region: Region, logged):
    region.slow_wait = 0.02
    inside, end = anyio.Event(), anyio.Event()
    lines = {}

    async def hold() -> None:
        async with region.read_lock():
            inside.set()
            lines["holder"] = line() + 1
            await end.wait()

    async def want() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(hold, name="the reader")
        await inside.wait()
        group.start_soon(want)
        await until(logged)
        end.set()
    (said,) = logged()
    assert f"at {HERE}:{lines['holder']} in hold" in said.partition("held by: ")[2]
    assert "the reader" in said.partition("held by: ")[2]
    assert "read lock" in said.partition("held by: ")[2]


async def test_an_upgrade_that_waits_is_told_of(region: Region, logged):
    region.slow_wait = 0.02
    async with anyio.create_task_group() as group:

        async def upgrade() -> None:
            hold = region.read_lock()
            async with hold:
                await hold.upgrade()

        async with region.read_lock():
            group.start_soon(upgrade)
            await until(logged)
    assert "in upgrade has been waiting for the write lock" in logged()[0]


async def test_a_wait_for_another_process_names_it(region: Region, rival: Rival, logged):
    region.slow_wait = 0.02
    assert rival.do("exclusive") == "done"

    async def write() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await until(logged)
        rival.do("unlock")
    (said,) = logged()
    assert f"held by: process {rival.process.pid} (python" in said


async def test_many_waits_are_one_warning_and_each_wait_is_told_of_once(region: Region, logged):
    region.slow_wait = 0.3  # those that begin within half of it are told of at once

    async def read() -> None:
        async with region.read_lock():
            pass

    async with anyio.create_task_group() as group:
        async with region.write_lock():
            for _ in range(5):
                group.start_soon(read)
            await until(logged)
            await anyio.sleep(0.4)  # the timer has rung again
            assert len(logged()) == 1
            assert "4 more of this event loop wait" in logged()[0]
            group.start_soon(read)
            await until(lambda: len(logged()) == 2)
            assert "more of this event loop" not in logged()[1]


async def test_a_wait_that_ends_in_time_is_not_told_of(region: Region, logged):
    region.slow_wait = 0.4

    async def write() -> None:
        async with region.write_lock():
            await anyio.sleep(0.002)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(write)
    await anyio.sleep(0.5)  # the timer has rung
    assert logged() == []
    region.slow_wait = None
    async with region.write_lock():
        with anyio.move_on_after(0.1):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
    assert logged() == []


async def test_a_free_lock_sets_no_timer(region: Region, monkeypatch: pytest.MonkeyPatch):
    region.slow_wait = 0.01
    async with region.write_lock():
        pass
    cohort = region._table.cohort
    set_timers = []
    monkeypatch.setattr(
        type(cohort.loop), "call_later", lambda *arguments: set_timers.append(arguments)
    )
    async with region.read_lock(), region.read_lock():
        pass
    async with region.write_lock():
        pass
    assert set_timers == []


def test_a_thread_that_waits_is_told_of_with_the_line_of_the_thread_that_holds(
    region: Region, logged
):
    region.slow_wait = 0.02
    inside, end = threading.Event(), threading.Event()
    lines = {}

    def hold() -> None:
        with region.read_lock():
            lines["holder"] = line() + 1
            _ = (inside.set(), end.wait())  # one line, as it may be told of as soon as it is inside

    def want() -> None:
        lines["waiter"] = line() + 1
        with region.write_lock():
            pass

    threads = [threading.Thread(target=hold, name="the holder"), threading.Thread(target=want)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    wait_until(lambda: bool(logged()))
    end.set()
    for thread in threads:
        thread.join()
    (said,) = logged()
    assert f"this thread at {HERE}:{lines['waiter']} in want has been waiting" in said
    assert f"thread 'the holder' at {HERE}:{lines['holder']} in hold" in said


def test_a_blocking_wait_with_a_timeout_is_told_of_once(region: Region, rival: Rival, logged):
    region.slow_wait = 0.02
    assert rival.do("exclusive") == "done"
    with pytest.raises(LockTimeoutError), region.read_lock(timeout=0.3):
        pass
    (said,) = logged()
    assert re.search(r"has been waiting for the read lock for \d+\.\d+ s", said)
    assert f"process {rival.process.pid}" in said


def test_a_thread_that_holds_is_named_to_a_task_that_waits(region: Region, logged):
    region.slow_wait = 0.02

    async def want() -> None:
        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as group:

                async def write() -> None:
                    async with region.write_lock():
                        pass

                group.start_soon(write)
                await until(logged)
                scope.cancel()

    inside, end = threading.Event(), threading.Event()

    def hold() -> None:
        with region.write_lock():
            inside.set()
            end.wait()

    thread = threading.Thread(target=hold, name="the holder")
    thread.start()
    inside.wait()
    anyio.run(want)
    end.set()
    thread.join()
    assert "thread 'the holder' at" in logged()[0]


def test_a_forked_child_has_the_same_limit(region: Region):
    region.slow_wait = 0.5
    if (child := os.fork()) == 0:
        with region.read_lock():
            os._exit(0 if region.slow_wait == 0.5 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_does_not_keep_a_region_alive(name: str):
    region = Region.create(name, 1)
    region.slow_wait = 1
    alive = weakref.ref(region)
    region.close()
    del region
    assert alive() is None
    gc.collect()
