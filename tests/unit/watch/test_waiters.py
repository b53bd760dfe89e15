"""Holders and waiters: those who wait are named, and lines of code where they are known."""

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from holding import COMMAND, kinds, me, waiting
from rivals import Rival
from waits import wait_until

from shm_async import Holder, LockTimeoutError, Region

# ---- who waits ---------------------------------------------------------------------------------


@contextlib.contextmanager
def blocked(region: Region, *, exclusive: bool) -> Iterator[threading.Thread]:
    """A thread that waits for the lock until the block ends."""

    def wait() -> None:
        with region.write_lock() if exclusive else region.read_lock():
            pass

    with contextlib.ExitStack() as stack:
        before = len(waiting(region))
        thread = threading.Thread(target=wait)
        thread.start()
        stack.callback(thread.join)
        wait_until(lambda: len(waiting(region)) > before)
        yield thread


def seen_together(region: Region, number: int) -> tuple[Holder, ...]:
    """Who holds the lock and who waits for it, at a moment when they are so many.

    A thread that waits looks around now and then, and waits for nothing meanwhile.
    """
    seen: list[tuple[Holder, ...]] = []

    def all_there() -> bool:
        seen.append(region.holders())
        return len(seen[-1]) == number

    wait_until(all_there)
    return seen[-1]


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_thread_that_waits_is_named(region: Region, rival: Rival, exclusive: bool):
    rival.do("exclusive")
    with blocked(region, exclusive=exclusive):
        kind = "write" if exclusive else "read"
        holding, wanting = seen_together(region, 2)
        assert (holding.pid, holding.kind, holding.waiting) == (rival.process.pid, "write", False)
        assert wanting == Holder(os.getpid(), COMMAND, kind, True, None)
        rival.do("unlock")
    assert region.holders() == ()


async def test_a_task_that_waits_is_named(region: Region, rival: Rival):
    rival.do("shared")

    async def write() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        with anyio.fail_after(10):
            while waiting(region) != [(os.getpid(), "write")]:
                await anyio.sleep(0.001)
        rival.do("unlock")


def test_a_program_that_knows_nothing_of_us_waits_and_is_named(region: Region, rival: Rival):
    with region.read_lock():
        rival.send("exclusive")
        wait_until(lambda: waiting(region) == [(rival.process.pid, "write")])
    assert rival.finish() == "done"
    assert kinds(region) == [(rival.process.pid, "write", False)]


def test_who_queues_at_the_gate_is_there_and_nameless(region: Region, rival: Rival):
    rival.do("exclusive")
    with blocked(region, exclusive=True), blocked(region, exclusive=False):
        _, first, last = seen_together(region, 3)
        assert (first.pid, first.kind, first.waiting) == (os.getpid(), "write", True)
        assert last == Holder(None, None, None, True, None)
        rival.do("unlock")


def test_a_readonly_reader_at_the_gate_can_want_only_one_thing(region: Region, rival: Rival):
    rival.do("exclusive")
    rival.do("gate")
    with Region.attach(region.name, readonly=True) as other, blocked(other, exclusive=False):
        wait_until(lambda: waiting(region) == [(None, "read")])
        rival.do("leave")
        rival.do("unlock")


def test_other_locks_of_bytes_are_no_waiting_for_ours(region: Region, name: str):
    with open(f"/dev/shm/{name}", "r+b") as first, open(f"/dev/shm/{name}", "r+b") as second:
        ours = struct.pack("hhqqi4x", 1, 0, 7, 1, 0)

        fcntl.fcntl(first, 37, ours)  # F_OFD_SETLK
        thread = threading.Thread(target=fcntl.fcntl, args=(second, 38, ours))  # F_OFD_SETLKW
        thread.start()
        inode = f":{os.fstat(first.fileno()).st_ino} "

        def it_waits() -> bool:
            rows = Path("/proc/locks").read_text().splitlines()
            return any("->" in row and inode in row for row in rows)

        wait_until(it_waits)
        assert region.holders() == ()
        fcntl.fcntl(first, 37, struct.pack("hhqqi4x", 2, 0, 7, 1, 0))
        thread.join()


def test_a_timed_out_wait_says_where_to_look(region: Region, rival: Rival):
    rival.do("exclusive")
    with pytest.raises(LockTimeoutError, match=r"region\.holders\(\) lists its holders"):
        region.read_lock(timeout=0.01).acquire_blocking()


# ---- what only the process itself knows --------------------------------------------------------


async def test_each_task_of_this_process_that_waits_is_listed_with_its_line(region: Region):
    async def write() -> None:
        async with region.write_lock():
            pass

    async def read() -> None:
        async with region.read_lock():
            pass

    async with anyio.create_task_group() as group:
        async with region.write_lock():
            for task in (write, read, read):
                group.start_soon(task)
                await anyio.wait_all_tasks_blocked()
            seen = region.holders()
            assert region.statistics().waiting == 3 == len(seen) - 1
    pid = os.getpid()
    assert [(each.pid, each.kind, each.waiting) for each in seen] == [
        (pid, "write", False),
        (pid, "write", True),
        (pid, "read", True),
        (pid, "read", True),
    ]
    assert [each.where.rpartition(" in ")[2] for each in seen[1:]] == ["write", "read", "read"]
    assert __file__ in seen[0].where


async def test_tasks_that_wait_for_another_process_are_listed_once_each(
    region: Region, rival: Rival
):
    assert rival.do("exclusive") == "done"

    async def write() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(write)
        with anyio.fail_after(10):
            while not any(each.waiting for each in me(region)):
                await anyio.sleep(0.001)
            while len(me(region)) < 3:
                await anyio.sleep(0.001)
        seen = region.holders()
        rival.do("unlock")
    assert [(each.pid, each.waiting) for each in seen] == [
        (rival.process.pid, False),
        *[(os.getpid(), True)] * 3,
    ]
    assert all(each.where.endswith(" in write") for each in seen[1:])


def test_a_thread_that_holds_is_listed_with_its_line(region: Region):
    with region.write_lock():
        (found,) = region.holders()
        assert found.where.startswith("thread 'MainThread' at ")
        assert found.where.endswith(" in test_a_thread_that_holds_is_listed_with_its_line")


def test_lines_are_not_guessed_where_two_regions_of_one_object_hold(region: Region):
    with Region.attach(region.name) as other:
        with region.read_lock(), other.read_lock():
            assert [each.where for each in region.holders()] == [None, None]
