"""What the kernel knows of locks and processes, for stress.py and its workers."""

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

GETLK = 36  # F_OFD_GETLK, not in fcntl's module
GATE = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 1 << 62, 1, 0)

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


# ---- about ourselves -----------------------------------------------------------------------


def control(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def descriptors() -> set[str]:
    """Open objects in /dev/shm and eventfds; loops have eventfds, too, but close them."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the directory
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith("/dev/shm") or "eventfd" in target:
                found.add(f"{fd} -> {target}")
    return found


def flock_rows() -> list[str]:
    """What /proc/locks says of this process: what it holds, and what it blocks in."""
    rows = Path("/proc/locks").read_text().splitlines()
    return [row for row in rows if "FLOCK" in row and str(os.getpid()) in row.split()]


# ---- about the lock ------------------------------------------------------------------------


def gate_is_taken(fd: int) -> bool:
    """Whether somebody stands at the gate of the object behind `fd`."""
    return struct.unpack("hhqqi4x", fcntl.fcntl(fd, GETLK, GATE))[0] != fcntl.F_UNLCK


def is_free(fd: int) -> bool:
    """Whether nobody has the lock of the object behind `fd`, which is ours and has it neither."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


# ---- about others --------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(word) for word in path.read_text().split()]
    return found


def family(pid: int) -> list[int]:
    """A process and all that come of it."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def is_stopped(pid: int) -> bool:
    """Whether the signal has reached all threads: until then one may still get the lock."""
    stats = [text_of(path) for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] in "TXZ" for stat in stats if stat)


def standing(pid: int) -> str:
    """Where a stopped process stands: the kernel tells the locks of each descriptor."""
    texts = [text_of(path) for path in Path(f"/proc/{pid}/fdinfo").glob("*")]
    if any("FLOCK" in text for text in texts):
        return "inside"
    return "at the gate" if any("OFDLCK" in text for text in texts) else "outside"


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:  # closed meanwhile
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return ""
