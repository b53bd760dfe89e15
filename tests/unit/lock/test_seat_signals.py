"""Blocking holds and signals: ours and those of the program."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rivals import Rival, blocked_in_flock
from waits import wait_until

from shm_async import (
    LockTimeoutError,
    Region,
)


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
    print(error.errno, error)
"""


def test_without_a_timer_to_be_had_a_wait_is_an_error_and_no_busy_loop(region: Region, run_python):
    with region.write_lock():
        done = run_python(NO_TIMERS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{errno.ENOBUFS} ")
    for word in ("RLIMIT_SIGPENDING allows this user 0", "SHM_ASYNC_SIGNAL=off", region.name):
        assert word in done.stdout


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
