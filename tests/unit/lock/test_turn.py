"""A turn at the gate: a writer that has waited takes the lock again, soon, past the next waiter."""

import os
import threading
import time

import anyio
import pytest
from cohorts import queued
from rivals import Rival, blocked_in_flock
from waits import until, wait_until

from shm_async import Region
from shm_async._native import (
    BUSY,
    MARK,
    LockHandle,
    lock_release,
    lock_spin_manner,
    lock_try_exclusive,
    lock_try_shared,
)

TURN_NS, SHORT_NS = 100_000, 50_000
FAR = 3600 * 10**9  # a turn that does not end during a test


@pytest.fixture
def handle(region: Region, rival: Rival) -> LockHandle:
    """The lock of a seat that holds nothing, in its turn, while the rival stands at the gate."""
    with region.write_lock():
        pass
    handle = region._table.pool.free[-1].handle
    begin_a_turn(handle, rival)
    return handle


def begin_a_turn(handle: LockHandle, rival: Rival) -> None:
    handle.recent = handle.control.recent = 0
    handle.turn = time.monotonic_ns() + FAR
    rival.do("gate")
    handle.control.gate = 1


# ---- what a turn allows ------------------------------------------------------------------


def test_a_writer_passes_the_gate_in_its_turn(handle: LockHandle):
    for _ in range(3):
        assert lock_try_exclusive(handle) == 0
        assert lock_release(handle) == 0
    handle.turn = time.monotonic_ns()
    assert lock_try_exclusive(handle) == BUSY


def test_it_does_not_prolong_its_turn_by_taking_the_lock(handle: LockHandle):
    until_then = handle.turn
    assert lock_try_exclusive(handle) == 0
    assert lock_release(handle) == 0
    assert handle.turn == until_then


def test_a_reader_has_no_turn(handle: LockHandle):
    assert lock_try_shared(handle) == BUSY


@pytest.mark.parametrize("whose", ["ours", "all writers'"])
def test_there_is_no_turn_where_holds_are_long(handle: LockHandle, whose: str):
    guess = handle if whose == "ours" else handle.control
    guess.recent = SHORT_NS + 1
    assert lock_try_exclusive(handle) == BUSY
    guess.recent = SHORT_NS
    assert lock_try_exclusive(handle) == 0
    assert lock_release(handle) == 0


def test_nobody_spins_past_the_gate_in_a_turn(handle: LockHandle, rival: Rival):
    rival.do("exclusive")
    assert lock_try_exclusive(handle) == BUSY
    assert lock_spin_manner(handle, MARK) == BUSY
    assert (handle.to_skip, handle.skipped) == (0, 0)  # the waiter ended it before it began


def test_a_block_does_not_wait_in_its_turn(region: Region, handle: LockHandle):
    with region.write_lock():
        assert region.statistics().contended == 0


async def test_a_task_does_not_wait_in_its_turn(region: Region, rival: Rival):
    async with region.write_lock():
        handle = region._table.cohort.handle
    begin_a_turn(handle, rival)
    async with region.write_lock():
        assert region.statistics().contended == 0


# ---- what brings one -----------------------------------------------------------------------


def test_a_lock_that_was_free_brings_no_turn(region: Region):
    hold = region.write_lock()
    with hold:
        assert turn_of(hold._at.handle) is None


@pytest.mark.parametrize("kind", ["write", "read"])
def test_a_thread_that_waited_to_write_has_a_turn(region: Region, other: Region, kind: str):
    found = []

    def wait() -> None:
        hold = getattr(region, f"{kind}_lock")()
        with hold:
            found.append(turn_of(hold._at.handle))

    with other.write_lock():
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: blocked_in_flock(os.getpid()))
    thread.join()
    assert found == [TURN_NS if kind == "write" else None]


@pytest.mark.parametrize("kind", ["write", "read"])
async def test_a_task_that_waited_to_write_has_a_turn(region: Region, other: Region, kind: str):
    async def wait() -> None:
        hold = getattr(region, f"{kind}_lock")()
        async with hold:
            found.append(turn_of(hold._at.handle))

    found: list[int | None] = []
    hold = other.write_lock()
    hold.acquire_blocking()
    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until(lambda: queued(region))
        hold.release()
    assert found == [TURN_NS if kind == "write" else None]


def turn_of(handle: LockHandle) -> int | None:
    """How long the turn lasts from the grant on, ns; None: it has none."""
    return handle.turn - handle.granted if handle.turn else None
