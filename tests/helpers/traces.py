"""Traces that a test could leave behind: entries, descriptors, threads, locks."""

import contextlib
import os
from pathlib import Path

from shm_async._memory import names

PREFIX = f"shm-async-test-{os.getpid()}-"


def shm_entries() -> set[str]:
    """Entries that these tests make; other programs, and other runs, may come and go."""
    return {entry for entry in os.listdir("/dev/shm") if entry.startswith(PREFIX)}


def our_descriptors() -> dict[str, str]:
    """The descriptors that a region could have opened: objects, eventfds, inotify instances."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the directory
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith("/dev/shm") or "eventfd" in target or "inotify" in target:
                found[fd] = target
    return found


def our_threads() -> set[str]:
    """The waiting threads of the shim; Python's own are not ours to count."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        # suppressed: it has ended
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm", "rb") as comm:
            if comm.read() == b"shm_async\n":
                found.add(task)
    return found


def our_locks() -> list[str]:
    rows = Path("/proc/locks").read_text().splitlines()
    return [row for row in rows if str(os.getpid()) in row.split() and "FLOCK" in row]


def locked_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmLck:")[2].split()[0]) * 1024


def temporary_objects() -> list[str]:
    return [entry for entry in os.listdir("/dev/shm") if entry.startswith(names.SUCCESSOR)]
