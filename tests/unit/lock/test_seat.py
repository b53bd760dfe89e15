"""Blocking holds: timeouts, signals, the pool."""

import errno
import os
import resource
import threading
import time
from typing import Any

import pytest
from rivals import Rival, blocked_in_flock
from traces import our_descriptors
from waits import wait_until

from shm_async import (
    LockTimeoutError,
    Region,
    RegionClosedError,
    RegionSizeError,
    WouldBlockError,
    _native,
)
from shm_async._lock import seat as synclock


def test_nested_reads_of_one_thread_work(region: Region):
    with region.read_lock() as outer, region.read_lock() as inner:
        assert outer[0] == inner[0] == 0


def test_a_thread_is_not_left_to_wait_for_itself(region: Region):
    for first in (region.read_lock, region.write_lock):
        for second in (region.read_lock, region.write_lock):
            if first == second == region.read_lock:
                continue
            with first():
                with pytest.raises(RuntimeError, match=r"this thread holds .*upgrade_blocking\(\)"):
                    second().acquire_blocking()
                with pytest.raises(LockTimeoutError):
                    second().acquire_blocking(timeout=0.01)
                with pytest.raises(WouldBlockError):
                    second().acquire_nowait()
    with region.write_lock():
        pass


def test_a_lock_that_another_thread_took_over_is_waited_for(region: Region):
    hold = region.write_lock()
    thread = threading.Thread(target=hold.acquire_blocking)
    thread.start()
    thread.join()  # the lock is held a little before the hold knows
    assert region.generation == 1
    with pytest.raises(LockTimeoutError):
        region.write_lock().acquire_blocking(timeout=0.01)
    hold.release()


def test_a_thread_that_ended_is_not_taken_for_a_new_one(region: Region):
    hold = region.read_lock()
    thread = threading.Thread(target=hold.acquire_blocking)
    thread.start()
    thread.join()
    errors = []

    def wait() -> None:  # its thread has, as a rule, the ident of the one that ended
        try:
            region.write_lock().acquire_blocking(timeout=0.01)
        except Exception as error:
            errors.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert errors == [LockTimeoutError]
    hold.release()


# ---- timeouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.0, 0.001, 0.05, 1e-12])
def test_a_timeout_ends_the_wait_and_holds_nothing(region: Region, rival: Rival, timeout: float):
    rival.do("exclusive")
    for lock in (region.write_lock, region.read_lock):
        start = time.monotonic()
        with (
            pytest.raises(LockTimeoutError, match=f"within {timeout} s") as caught,
            lock(timeout=timeout),
        ):
            pytest.fail("the rival has it")
        assert time.monotonic() - start >= timeout
        assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, region.name)
    rival.do("unlock")
    with region.write_lock(timeout=timeout):
        pass
    assert rival.do("try-exclusive") == "done"


def test_acquire_blocking_has_a_timeout_of_its_own(region: Region, rival: Rival):
    rival.do("exclusive")
    with pytest.raises(LockTimeoutError, match=r"within 0\.01 s"):
        region.write_lock(timeout=1000).acquire_blocking(timeout=0.01)
    with pytest.raises(LockTimeoutError, match=r"within 0\.02 s"):
        region.write_lock(timeout=0.02).acquire_blocking()


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(region: Region, timeout: float):
    with pytest.raises(ValueError, match="timeout must not be negative"):
        region.write_lock(timeout=timeout)


@pytest.mark.parametrize("timeout", ["1", True, [1]])
def test_a_timeout_that_is_no_number_is_refused(region: Region, timeout: object):
    with pytest.raises(TypeError, match="timeout must be a number"):
        region.read_lock(timeout=timeout)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 2**80, 10**9])
def test_very_long_timeouts_are_for_ever(region: Region, rival: Rival, timeout: float):
    rival.do("exclusive")
    threading.Timer(0.02, lambda: rival.do("unlock")).start()
    with region.write_lock(timeout=timeout) as view:
        view[0] = 1


def test_a_wait_longer_than_a_tick_goes_on(region: Region, rival: Rival, monkeypatch):
    monkeypatch.setattr(synclock, "TICK", 1_000_000)
    rival.do("exclusive")
    threading.Timer(0.05, lambda: rival.do("unlock")).start()
    with region.write_lock():
        pass


def test_waiting_costs_no_processor_time(region: Region, rival: Rival):
    rival.do("exclusive")
    before = time.process_time()
    with pytest.raises(LockTimeoutError):
        region.write_lock().acquire_blocking(timeout=0.5)
    assert time.process_time() - before < 0.1


# ---- close, truncation, nowait -----------------------------------------------------------------


def test_closing_ends_blocked_threads(region: Region, rival: Rival):
    rival.do("exclusive")
    errors = []

    def wait() -> None:
        try:
            region.write_lock().acquire_blocking()
        except RegionClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    region.close()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 3


def test_a_lock_that_is_opened_while_the_region_closes_is_not_left_open(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    def closes_meanwhile(*arguments, **options):
        lock = lock_open(*arguments, **options)
        region.close()
        return lock

    lock_open = _native.lock_open
    region._table.usable().ahead.clear()  # what root opens in advance
    monkeypatch.setattr(_native, "lock_open", closes_meanwhile)
    kept = []
    try:
        with region.write_lock():
            pass
    except RegionClosedError as error:
        kept.append(error)  # and with it all that its frames refer to
    assert our_descriptors() == {}


def test_closing_in_a_with_block_keeps_the_lock_until_its_end(region: Region, rival: Rival):
    with region.write_lock() as view:
        region.close()
        view[0] = 1
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


def test_an_object_truncated_while_a_thread_waits_is_told(region: Region, rival: Rival):
    rival.do("exclusive")
    errors = []

    def wait() -> None:
        try:
            region.write_lock().acquire_blocking()
        except RegionSizeError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    rival.do("truncate 0")
    rival.do("unlock")
    thread.join()
    assert len(errors) == 1
    assert rival.do("try-exclusive") == "done"


def test_nowait_outside_a_loop(region: Region, rival: Rival):
    rival.do("exclusive")
    for hold in (region.read_lock(), region.write_lock()):
        with pytest.raises(WouldBlockError, match="is not free") as caught:
            hold.acquire_nowait()
        assert (caught.value.errno, caught.value.filename) == (errno.EWOULDBLOCK, region.name)
    rival.do("unlock")
    hold = region.write_lock()
    hold.acquire_nowait()
    assert rival.do("try-shared") == "busy"
    hold.release()
    assert rival.do("try-shared") == "done"


# ---- the pool ----------------------------------------------------------------------------------


def test_many_threads_at_once_leave_a_bounded_number_of_descriptors(region: Region):
    before = len(our_descriptors())
    barrier = threading.Barrier(30)

    def hold() -> None:
        with region.read_lock():
            barrier.wait()

    for _ in range(3):
        threads = [threading.Thread(target=hold) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(our_descriptors()) <= before + synclock.POOL_SIZE
    with region.write_lock():
        pass


def test_out_of_descriptors_is_an_error_and_nothing_is_lost(region: Region):
    assert region._table.opener is not None
    region._table.opener.ahead.clear()  # what root opens beforehand
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    opened = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        with pytest.raises(OSError, match="again for a lock.*RLIMIT_NOFILE allows") as caught:
            region.write_lock().acquire_blocking()
        assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, region.name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in opened:
            os.close(fd)
    with region.write_lock():
        pass


def test_two_threads_may_close_the_extra_seats_at_once(region: Region):
    with region.write_lock():
        pass
    pool = region._table.pool
    for seat in pool.seats:
        seat.extra = True
    came: list[None] = []

    class Raced(list[Any]):
        def pop(self, *arguments: Any) -> Any:
            if not came:
                came.append(None)
                pool.tidy()  # as another thread does at this moment
            return super().pop(*arguments)

    pool.free = Raced(pool.free)
    pool.tidy()
    assert (pool.seats, pool.free) == ([], [])
