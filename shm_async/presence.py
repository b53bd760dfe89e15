"""Presence: whether anybody is attached to an object, crashed processes not counted.

Each attachment shares one byte of the object, far behind any data: an OFD lock, which the
kernel ends with the last descriptor and mapping of it. Whoever gets that byte alone knows
that no other attachment of this package is there, and keeps new ones out as long as it has it.
"""

import errno
import fcntl
import signal
import time

from . import _native

__all__ = [
    "ALONE",
    "NOBODY",
    "SHARED",
    "announce",
    "claim_patiently",
    "is_open_elsewhere",
    "leave",
    "take_alone",
]

#: The byte that attachments share; the gate's is the one before it.
PRESENCE_BYTE = (1 << 62) + 1

#: How a byte is claimed; NOBODY lets go of it.
NOBODY, SHARED, ALONE = 0, 1, 2

#: Seconds that others get for what takes them microseconds, if they are not stopped.
PATIENCE = 1.0


def announce(fd: int, name: str) -> None:
    """Be present. Waits for who is about to remove the object, for PATIENCE seconds at most."""
    claim_patiently(fd, PRESENCE_BYTE, SHARED, name, "removing")


def leave(fd: int, name: str) -> None:
    """Be present no more."""
    _native.claim(fd, PRESENCE_BYTE, NOBODY, name)


def take_alone(fd: int, name: str) -> bool:
    """Be present no more, but for keeping others out. False: others are present.

    Letting go comes first: of two who did this at once and only converted their share, each
    would find the other.
    """
    leave(fd, name)
    return _native.claim(fd, PRESENCE_BYTE, ALONE, name)


def is_open_elsewhere(fd: int) -> bool:
    """Whether anybody has the object open or mapped by another description than `fd`'s.

    Asks the kernel for a lease, which it gives to the only one who has a file open: so this sees
    programs that know nothing of this package, in whatever container. True also where it does
    not tell: for files of others, and file systems without leases.
    """
    try:
        # who opens it just now would bring us SIGIO, which is deadly by default
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def claim_patiently(fd: int, byte: int, kind: int, name: str, what_others_do: str) -> None:
    """Claim a byte that others need for microseconds only, unless one of them is stopped.

    Raises:
        OSError: EBUSY, for longer than PATIENCE.
    """
    deadline = time.monotonic() + PATIENCE
    while not _native.claim(fd, byte, kind, name):
        if time.monotonic() > deadline:
            raise OSError(
                errno.EBUSY,
                f"somebody has been {what_others_do} it for {PATIENCE} s: "
                "see in /proc/locks who has a lock of it",
                name,
            )
        time.sleep(0.001)
