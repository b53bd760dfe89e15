"""Calls that never wait keep the GIL, so a free lock does not wait for a thread that computes."""

import gc
import sys
import threading
import time
from collections.abc import Callable

import pytest
from waits import wait_until

from shm_async import Region, _native
from shm_async._native import BUSY, LockHandle, lock_release, lock_spin_exclusive

pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this Python has no GIL"
)

#: Seconds after which a thread may ask the running one for the GIL: never, in a test.
NEVER = 1000.0


class Beside:
    """A thread that waits for the GIL and gets it only if this thread gives it up."""

    def __init__(self) -> None:
        self.waits = self.ran = False
        self.before = sys.getswitchinterval()
        self.go = threading.Lock()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.waits = True
        with self.go:
            self.ran = True

    def __enter__(self) -> "Beside":
        gc.collect()
        gc.disable()  # what an earlier test left would give the GIL up as it closes
        with self.go:
            self.thread.start()
            wait_until(lambda: self.waits)  # for `go`, as it has given the GIL up
            sys.setswitchinterval(NEVER)
        compute(0.02)  # it waits for the GIL now
        return self

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self.before)
        gc.enable()
        self.thread.join()


def compute(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.fixture
def handle(region: Region) -> LockHandle:
    with region.write_lock():
        pass
    return region._table.pool.free[-1].handle


def turn(handle: LockHandle, function: str) -> Callable[[], object]:
    """Return a step that calls this function of the lock, and releases what it took."""
    call = getattr(_native, function)

    def step() -> None:
        assert call(handle) >= 0
        if handle.mode:
            lock_release(handle)

    return step


@pytest.mark.parametrize(
    "function", ["lock_try_shared", "lock_try_exclusive", "lock_mode", "lock_mode_here"]
)
def test_a_call_that_never_waits_keeps_the_gil(handle: LockHandle, function: str):
    step = turn(handle, function)
    with Beside() as beside:
        for _ in range(1000):
            step()
        assert not beside.ran
    assert beside.ran


def test_ends_and_beginnings_within_a_loop_keep_it(handle: LockHandle):
    assert _native.lock_try_manner(handle, _native.MARK) == 0
    with Beside() as beside:
        for _ in range(1000):
            assert _native.lock_pass(handle, _native.MARK, False) == 0
            assert _native.lock_end(handle) == 0
            assert _native.lock_begin(handle, _native.MARK) == 0
            assert _native.lock_downgrade(handle) == 0
            assert _native.lock_sound(handle) == 0
            assert _native.lock_upgrade(handle) == 0
        assert not beside.ran
    assert lock_release(handle) == 0


def test_a_look_at_the_data_keeps_it(region: Region):
    region.snapshot()
    with Beside() as beside:
        for _ in range(1000):
            region.snapshot()
        assert not beside.ran


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_block_of_a_free_lock_keeps_it(region: Region, kind: str):
    block = getattr(region, f"{kind}_lock")
    with block():  # the first one opens a descriptor
        pass
    with Beside() as beside:
        for _ in range(1000):
            with block():
                pass
        assert not beside.ran


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_block_of_a_task_keeps_it(region: Region, kind: str):
    block = getattr(region, f"{kind}_lock")
    async with block():
        pass
    with Beside() as beside:
        for _ in range(1000):
            async with block():
                pass
        assert not beside.ran


def test_a_spin_gives_it_up_as_another_thread_may_have_the_lock(
    region: Region, name: str, handle: LockHandle
):
    def spin() -> bool:
        handle.recent = handle.control.recent = handle.skipped = handle.to_skip = 0
        assert lock_spin_exclusive(handle) == BUSY
        return beside.ran

    with Region.attach(name) as other, other.write_lock(), Beside() as beside:
        deadline = time.monotonic() + 10
        while not spin():  # without a pause, which would give it up itself
            assert time.monotonic() < deadline
