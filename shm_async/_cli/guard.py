"""A command that runs while a lock is held, so that neither outlives the other.

Three processes. The *starter* is the one that the user started. It forks the *guard*, which
takes the lock and starts the *command*. The command does not inherit the lock. So:

* The command ends, however: the guard releases the lock, and both tell its exit status. What
  the command left running in the background goes on without the lock.
* The starter is killed: the guard hears of it, kills the command and its children, and only
  then does the kernel free the lock. The region is left marked as half-written, which it may be.
* The guard is killed: the kernel frees the lock, and kills the command.

Signals that a process sends to starter or guard are passed on to the command.
"""

import errno
import os
import signal
from collections.abc import Callable

from .. import _native
from .failures import say
from .signals import InterruptedBySignal as Interrupted
from .signals import block, die_of, passed_on, raising, status_of, wait_for_one

__all__ = ["NOT_EXECUTABLE", "guarded", "run_in_guard"]

NOT_EXECUTABLE = 69  # as flock(1): EX_UNAVAILABLE
NO_MEMORY = 71  # EX_OSERR


def guarded(guard: Callable[[int, set[int]], int]) -> int:
    """Run `guard` in a process of its own, and return its exit status.

    It is called with the starter's pid and the signals that it passes on.
    """
    wanted = passed_on()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = block(wanted | {signal.SIGCHLD})
    starter = os.getpid()
    pid = os.fork()
    if pid == 0:
        raising(wanted)
        _native.end_with_parent(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            if os.getppid() != starter:  # it was too late to ask
                return die_of(signal.SIGTERM)
            return guard(starter, wanted)
        except Interrupted as end:
            return die_of(end.number)
    while True:
        wait_for_one(wanted | {signal.SIGCHLD}, lambda number: os.kill(pid, number))
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status_of(status)


def run_in_guard(command: list[str], starter: int, wanted: set[int]) -> int:
    """Start the command, wait for its end, and return its exit status; called by the guard.

    Does not return if the starter is gone: then it kills the command, and this process.
    """
    waited = wanted | {signal.SIGCHLD, signal.SIGTERM}
    before = block(waited)
    _native.adopt_orphans()
    pid = os.fork()
    if pid == 0:
        _become(command, before, wanted)
    while os.getppid() == starter:
        wait_for_one(waited, lambda number: _pass_on(pid, number, starter))
        status = _reap(pid)
        if status is not None:
            return status_of(status)
    _kill_all(pid)
    os.kill(
        os.getpid(), signal.SIGKILL
    )  # the mark stays: the command was killed while it held the lock
    raise AssertionError


def _become(command: list[str], mask: set[int], wanted: set[int]) -> None:
    """Execute the command in a forked child."""
    status = NOT_EXECUTABLE
    try:
        guard = os.getppid()
        _native.end_with_parent(signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(status)
        for number in (*wanted, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)
    except OSError as error:
        say(f"cannot execute {command[0]}: {error.strerror}")
        status = NO_MEMORY if error.errno == errno.ENOMEM else NOT_EXECUTABLE
    finally:
        os._exit(status)


def _pass_on(pid: int, number: int, starter: int) -> None:
    if os.getppid() == starter:  # else it is the kernel that says so
        os.kill(pid, number)


def _reap(command: int) -> int | None:
    """Reap all ended children. Return the command's wait status; None: it still runs."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == command:
            found = status


def _kill_all(command: int) -> None:
    """Kill the command and its descendants, but not processes that it had orphaned before."""
    spared = set(_children()) - {command}
    while targets := set(_children()) - spared:
        for pid in targets:
            os.kill(pid, signal.SIGKILL)
        for pid in targets:
            os.waitpid(pid, 0)  # its children are ours by then


def _children() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal() and _is_child(entry)]


def _is_child(entry: str) -> bool:
    try:
        with open(f"/proc/{entry}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid()
    except OSError:
        return False
