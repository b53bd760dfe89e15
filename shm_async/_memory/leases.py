"""Leases: an open waits for a lease to end, and `prune` takes one to learn if an object is open.

A lease makes every other process that opens the object wait until its holder gives it back. We
never wait in the kernel, where only a signal could end the wait. So an open that meets a lease
fails with EWOULDBLOCK, and is tried again here.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from .. import _native

__all__ = ["PATIENCE", "is_open_elsewhere", "open_patiently", "patiently"]

T = TypeVar("T")

#: Seconds that an open waits for the holder of a lease. `prune` needs a microsecond. Another
#: program, or a `prune` that is stopped at that moment, loses its lease after BREAK_TIME anyway.
PATIENCE = 1.0

BREAK_TIME = "/proc/sys/fs/lease-break-time"


def open_patiently(path: str, flags: int, name: str) -> int:
    """Open an object. Blocks while a process has a lease on it, for PATIENCE seconds at most.

    Raises:
        OSError: EBUSY, the lease lasts longer; and the errors of os.open.
    """
    return patiently(lambda: os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC), name)


def patiently(open_it: Callable[[], T], name: str) -> T:
    """Retry `open_it`, which opens an object without waiting in the kernel, while a lease exists.

    Raises:
        OSError: EBUSY, a process has had a lease for PATIENCE s; and the errors of `open_it`.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return open_it()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _leased(name) from None
        time.sleep(0.001)


def _leased(name: str) -> OSError:
    try:
        with open(BREAK_TIME) as file:
            seconds = file.read().strip()
    except OSError:
        seconds = "some"
    return OSError(
        errno.EBUSY,
        f"another process has had a lease on it for {PATIENCE} s: see LEASE in /proc/locks. "
        f"The kernel ends the lease after {seconds} s ({BREAK_TIME}): try again then",
        name,
    )


def is_open_elsewhere(fd: int) -> bool:
    """Tell whether the object is open or mapped by another description than that of `fd`.

    It takes a lease for a moment: the kernel gives one only if no other description of the
    object is open. So this sees programs that do not use this package, in any container. True
    also where the kernel gives no answer: see `shma_lease_open_elsewhere`.
    """
    return _native.open_elsewhere(fd, os.fstat(fd).st_uid) != 0
