"""Signals that are passed on to a command, and waiting for them and for children."""

import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType

__all__ = [
    "PASSED_ON",
    "InterruptedBySignal",
    "block",
    "die_of",
    "passed_on",
    "raising",
    "status_of",
    "status_of_code",
    "wait_for_one",
]

#: Signals that ask a program for something, and stop it if it does not handle them.
PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


class InterruptedBySignal(BaseException):
    """Raised when a signal ends this process, so that blocks end cleanly."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def passed_on() -> set[int]:
    """Return those that are not ignored. A signal that nohup ignores stays ignored, too."""
    return {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}


def block(numbers: Iterable[int]) -> set[int]:
    """Block these, so that `wait_for_one` finds them. Return the signals blocked before."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, numbers))


def raising(numbers: Iterable[int]) -> None:
    """Make these raise InterruptedBySignal."""

    def handle(number: int, _: FrameType | None) -> None:
        raise InterruptedBySignal(number)

    for number in numbers:
        signal.signal(number, handle)


def wait_for_one(numbers: Iterable[int], pass_to: Callable[[int], None]) -> None:
    """Wait for one of these signals; one that a process sent is passed on.

    One that came from the terminal has gone to every process there, the command included.
    """
    found = signal.sigwaitinfo(numbers)
    if found.si_signo != signal.SIGCHLD and found.si_code <= 0:
        pass_to(found.si_signo)


def status_of(wait_status: int) -> int:
    """Return the exit status that a shell gives: 128 and the signal that ended a process."""
    return status_of_code(os.waitstatus_to_exitcode(wait_status))


def status_of_code(code: int) -> int:
    """Return the same for a result of subprocess, in which a signal is a negative number."""
    return code if code >= 0 else 128 - code


def die_of(number: int) -> int:
    """End this process by a signal, as if it had never been handled."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    return 128 + number
