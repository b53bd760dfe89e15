"""Waiting under gevent and eventlet, whose greenlets share a thread that must not block.

A program that has patched the standard library (`gevent.monkey.patch_all()`,
`eventlet.monkey_patch()`) expects `with` and `time.sleep` to let other greenlets run. So a wait
tries the lock and sleeps in turns there, as it does where no signal may interrupt it. This
module imports neither package: a package that is not imported has patched nothing.
"""

import sys
import time

from .._native import BUSY, INTERRUPTED, LockHandle, lock_look

__all__ = ["sleep_is_shared", "wait_in_greenlet"]

# Pauses between two looks, in nanoseconds, as those in internal.h.
FIRST = 50_000
LAST = 5_000_000

PATCHERS = (("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched"))


def sleep_is_shared() -> bool:
    """Tell whether `time.sleep` lets other greenlets of the thread run."""
    return any(
        getattr(sys.modules[module], is_patched)("time")
        for module, is_patched in PATCHERS
        if module in sys.modules
    )


def wait_in_greenlet(handle: LockHandle, exclusive: bool, manner: int, patience: int) -> int:
    """Wait for the lock for `patience` ns at most, while other greenlets run.

    Return the same results as `lock_wait`. A timeout or kill of the greenlet is raised between
    two tries, when only the place at the gate is held.
    """
    end = time.monotonic_ns() + patience
    pause = FIRST
    while (code := lock_look(handle, exclusive, manner)) == BUSY:
        left = end - time.monotonic_ns()
        if left <= 0:
            return INTERRUPTED
        time.sleep(min(pause, left) / 1e9)
        pause = min(2 * pause, LAST)
    return code
