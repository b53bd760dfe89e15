"""Calls that never wait keep the GIL, so a free lock does not wait for a thread that computes."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from waits import wait_until

from shm_async import Region, _native
from shm_async._native import BUSY, LockHandle, lock_release, lock_spin_manner

pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this Python has no GIL"
)

#: Seconds after which a thread may ask the running one for the GIL: never, in a test.
NEVER = 1000.0


class Other:
    """A thread that waits for the GIL and gets it only if this thread gives it up."""

    def __init__(self) -> None:
        self.waits = self.ran = False
        self.go = threading.Lock()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.waits = True
        with self.go:
            self.ran = True

    def begin_to_wait(self) -> None:
        with self.go:
            self.thread.start()
            wait_until(lambda: self.waits)  # for `go`, as it has given the GIL up
            sys.setswitchinterval(NEVER)
        compute(0.02)  # it waits for the GIL now


@contextmanager
def beside() -> Iterator[Other]:
    other, interval = Other(), sys.getswitchinterval()
    gc.collect()
    gc.disable()  # what an earlier test left would give the GIL up as it closes
    try:
        other.begin_to_wait()
        yield other
    finally:
        sys.setswitchinterval(interval)
        gc.enable()
        other.thread.join()


def compute(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.fixture
def handle(region: Region) -> LockHandle:
    with region.write_lock():
        pass
    return region._table.pool.free[-1].handle


ONE_CALL: dict[str, Callable[[LockHandle], int]] = {
    "lock_try_shared": _native.lock_try_shared,
    "lock_try_exclusive": _native.lock_try_exclusive,
    "lock_try_manner": lambda handle: _native.lock_try_manner(handle, _native.MARK),
    "lock_mode": _native.lock_mode,
    "lock_mode_here": _native.lock_mode_here,
    "watch_look": lambda handle: _native.watch_look(handle, 0, False),
    "control_generation": lambda handle: _native.control_generation(handle.control),
}


@pytest.mark.parametrize("function", ONE_CALL)
def test_a_call_that_never_waits_keeps_the_gil(handle: LockHandle, function: str):
    def step() -> None:
        assert ONE_CALL[function](handle) >= 0
        if handle.mode:
            lock_release(handle)

    with beside() as other:
        for _ in range(1000):
            step()
        assert not other.ran
    assert other.ran


def test_ends_and_beginnings_within_a_loop_keep_it(handle: LockHandle):
    assert _native.lock_try_manner(handle, _native.MARK) == 0
    with beside() as other:
        for _ in range(1000):
            assert _native.lock_pass(handle, _native.MARK, False) == 0
            assert _native.lock_end(handle) == 0
            assert _native.lock_begin(handle, _native.MARK) == 0
            assert _native.lock_downgrade(handle) == 0
            assert _native.lock_sound(handle) == 0
            assert _native.lock_upgrade(handle) == 0
        assert not other.ran
    assert lock_release(handle) == 0


def test_a_look_at_the_data_keeps_it(region: Region):
    region.snapshot()
    with beside() as other:
        for _ in range(1000):
            region.snapshot()
        assert not other.ran


BLOCKS: dict[str, Callable[[Region], Any]] = {
    "read": lambda region: region.read_lock(),
    "write": lambda region: region.write_lock(),
    "recover": lambda region: region.write_lock(recover=True),
}
IN_A_THREAD: dict[str, Callable[[Region], Any]] = {
    "read, with a timeout": lambda region: region.read_lock(timeout=60),
    "write, with a timeout": lambda region: region.write_lock(timeout=60),
}


@pytest.mark.parametrize("block", (both := BLOCKS | IN_A_THREAD).values(), ids=both)
def test_a_block_of_a_free_lock_keeps_it(region: Region, block: Callable[[Region], Any]):
    with block(region):  # the first one opens a descriptor
        pass
    with beside() as other:
        for _ in range(1000):
            with block(region):
                pass
        assert not other.ran


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
async def test_a_block_of_a_task_keeps_it(region: Region, block: Callable[[Region], Any]):
    async with block(region):
        pass
    with beside() as other:
        for _ in range(1000):
            async with block(region):
                pass
        assert not other.ran


def test_a_spin_gives_it_up_as_another_thread_may_have_the_lock(
    region: Region, name: str, handle: LockHandle
):
    def spin() -> bool:
        handle.recent = handle.control.recent = handle.skipped = handle.to_skip = 0
        assert lock_spin_manner(handle, _native.MARK) == BUSY
        return other.ran

    with Region.attach(name) as holder, holder.write_lock(), beside() as other:
        deadline = time.monotonic() + 10
        while not spin():  # without a pause, which would give it up itself
            assert time.monotonic() < deadline
