"""Blocking holds: timeouts, signals, the pool."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import Rival, blocked_in_flock, our_descriptors, wait_until

from shm_async import (
    LockTimeoutError,
    Region,
    RegionClosedError,
    RegionSizeError,
    WouldBlockError,
    synclock,
)


def test_nested_reads_of_one_thread_work(region: Region):
    with region.read_lock() as outer, region.read_lock() as inner:
        assert outer[0] == inner[0] == 0


def test_a_thread_is_not_left_to_wait_for_itself(region: Region):
    for first in (region.read_lock, region.write_lock):
        for second in (region.read_lock, region.write_lock):
            if first == second == region.read_lock:
                continue
            with first(), pytest.raises(RuntimeError, match="this thread holds a lock"):
                second().acquire_blocking(timeout=5)
    with region.write_lock():
        pass


def test_a_lock_that_another_thread_took_over_is_waited_for(region: Region):
    hold = region.write_lock()
    threading.Thread(target=hold.acquire_blocking).start()
    wait_until(lambda: region.generation == 1)
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


# ---- timeouts ------------------------------------------------------------------------


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


# ---- signals --------------------------------------------------------------------------


def test_an_exception_from_a_signal_handler_ends_the_wait(region: Region, rival: Rival):
    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    rival.do("exclusive")
    before = signal.signal(signal.SIGALRM, ring)
    remaining = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Rung), region.write_lock():
            pytest.fail("the rival has it")
    finally:
        signal.setitimer(signal.ITIMER_REAL, *remaining)
        signal.signal(signal.SIGALRM, before)
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"


def test_a_signal_whose_handler_returns_does_not_end_the_wait(region: Region, rival: Rival):
    calls = []
    before = signal.signal(signal.SIGUSR1, lambda *_: calls.append(1))
    rival.do("exclusive")

    def disturb() -> None:
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.001)
        rival.do("unlock")

    thread = threading.Thread(target=disturb)
    thread.start()
    with region.write_lock():
        assert calls
    thread.join()
    signal.signal(signal.SIGUSR1, before)


CTRL_C = """
import sys
from shm_async import Region
region = Region.attach(sys.argv[1])
print("ready", flush=True)
try:
    with region.write_lock():
        print("inside")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_a_blocked_with(region: Region):
    with region.write_lock():
        child = subprocess.Popen(
            [sys.executable, "-c", CTRL_C, region.name], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        wait_until(lambda: blocked_in_flock(child.pid))
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "interrupted\n"
        child.stdout.close()
        assert child.wait(10) == 0


def test_a_thread_that_blocks_every_signal_can_be_timed_out(region: Region, rival: Rival):
    rival.do("exclusive")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with pytest.raises(LockTimeoutError):
            region.write_lock().acquire_blocking(timeout=0.01)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.SIGRTMAX - 1 in blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_python_sees_nothing_of_our_signal(region: Region, rival: Rival):
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    rival.do("exclusive")
    with pytest.raises(LockTimeoutError):
        region.write_lock().acquire_blocking(timeout=0.01)
    after = {number: signal.getsignal(number) for number in signal.valid_signals()}
    assert before == after


IGNORED = """
import signal, sys
from shm_async import Region, LockTimeoutError
region = Region.attach(sys.argv[1])
for handler in (None, signal.SIG_IGN, signal.SIG_DFL):
    if handler is not None:
        for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
            signal.signal(number, handler)
    try:
        region.write_lock().acquire_blocking(timeout=0.05)
    except LockTimeoutError:
        print("timed out", flush=True)
"""


def test_a_signal_that_is_reset_or_ignored_meanwhile_interrupts_all_the_same(
    region: Region, run_python
):
    with region.write_lock():
        done = run_python(IGNORED)
    assert (done.stdout, done.stderr) == ("timed out\n" * 3, "")


NO_TIMERS = """
import resource, sys
from shm_async import Region
region = Region.attach(sys.argv[1])
resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
try:
    region.write_lock().acquire_blocking(timeout=5)
except OSError as error:
    print(error.errno)
"""


def test_without_a_timer_to_be_had_a_wait_is_an_error_and_no_busy_loop(region: Region, run_python):
    with region.write_lock():
        done = run_python(NO_TIMERS)
    assert (done.stdout, done.stderr) == (f"{errno.ENOBUFS}\n", "")


TAKEN = """
import signal, sys
from shm_async import Region, LockTimeoutError
taken = []
for number in (signal.SIGRTMAX - 1, signal.SIGRTMAX - 2):
    signal.signal(number, lambda *_: taken.append(1))
region = Region.attach(sys.argv[1])
try:
    region.write_lock().acquire_blocking(timeout=0.05)
except LockTimeoutError:
    print("timed out", taken)
# somebody resets what is not his: it would kill the process
signal.signal(signal.SIGRTMAX - 3, signal.SIG_DFL)
try:
    region.write_lock().acquire_blocking(timeout=0.05)
except LockTimeoutError:
    print("timed out", taken)
"""


def test_signals_that_others_use_are_left_to_them(region: Region, run_python):
    with region.write_lock():
        done = run_python(TAKEN)
    assert (done.stdout, done.stderr) == ("timed out []\n" * 2, "")


# ---- close, truncation, nowait -------------------------------------------------------------


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


# ---- the pool -----------------------------------------------------------------------------


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
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    opened = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        with pytest.raises(OSError, match="again for a lock") as caught:
            region.write_lock().acquire_blocking()
        assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, region.name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in opened:
            os.close(fd)
    with region.write_lock():
        pass
