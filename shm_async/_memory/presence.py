"""Presence: whether a process is attached to an object, crashed processes not counted.

Each attachment has a shared lock of one byte of the object, far behind any data. It is an OFD
lock, which the kernel ends with the last descriptor and mapping of its description. A process
that gets the exclusive lock of that byte knows that no other attachment of this package exists.
No new one can attach while it holds that lock.
"""

import errno
import time

from .. import _native

__all__ = [
    "ALONE",
    "NOBODY",
    "SHARED",
    "announce",
    "claim_patiently",
    "is_anybody",
    "leave",
    "take_alone",
]

#: Kinds of claim of a byte; NOBODY releases it.
NOBODY, SHARED, ALONE = 0, 1, 2

#: Seconds to wait for work of other processes that takes microseconds unless they are stopped.
PATIENCE = 1.0


def announce(fd: int, name: str) -> None:
    """Become present. Blocks while a process removes the object, for PATIENCE seconds at most."""
    claim_patiently(fd, _native.PRESENCE_BYTE, SHARED, name, "removing")


def leave(fd: int, name: str) -> None:
    """Stop being present."""
    _native.claim(fd, _native.PRESENCE_BYTE, NOBODY, name)


def take_alone(fd: int, name: str) -> bool:
    """Stop being present, and keep new attachments out. False: others are present.

    It releases its shared lock first. If two processes did this at once and only converted
    their shared locks, each would find the other present.
    """
    leave(fd, name)
    return _native.claim(fd, _native.PRESENCE_BYTE, ALONE, name)


def is_anybody(fd: int, name: str) -> bool:
    """Tell whether others are present, or one keeps new attachments out. Takes no lock itself."""
    return _native.claimed(fd, _native.PRESENCE_BYTE, name)


def claim_patiently(fd: int, byte: int, kind: int, name: str, what_others_do: str) -> None:
    """Claim a byte that others need for microseconds only, unless one of them is stopped.

    Blocks for PATIENCE seconds at most.

    Raises:
        OSError: EBUSY, another process has had the byte for PATIENCE seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not _native.claim(fd, byte, kind, name):
        if time.monotonic() > deadline:
            raise OSError(
                errno.EBUSY,
                f"another process has been {what_others_do} it for {PATIENCE} s: "
                "/proc/locks lists the processes that lock it",
                name,
            )
        time.sleep(0.001)
