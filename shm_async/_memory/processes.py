"""The processes that have shared memory mapped or open, as far as /proc shows them.

Each process is read once. That stops no process, and needs no permission for processes of the
same user. Only root can read those of other users. /proc does not list processes outside of
this pid namespace.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from .control import pid_namespace
from .proclocks import command_of

__all__ = ["Process", "Usage", "Use", "descriptors_of_host", "usage_of_host"]

PROC = "/proc"
BLOCK = 1 << 16  # bytes; the kernel gives a page at a time
FIRST = "/proc/1"  # missing if /proc is mounted with hidepid
INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # its inode, on every machine

#: Lines of /proc/PID/maps: of an object of that device, or of a System V segment.
LINE = rb"(?m)^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (?:%b (\d+) +(.+)|\S+ (\d+) +(/SYSV.+))$"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has a region mapped or open."""

    __module__ = "shm_async"

    pid: int  #: as this pid namespace counts
    command: str | None  #: its name; None if it has ended just now
    mapped: bool  #: it has the memory mapped; else it has only the file open, as flock(1) has
    descriptors: tuple[int, ...] | None  #: that lead to the object; None if not asked for


@dataclass(frozen=True, slots=True)
class Use:
    """A mapping of an object in a process."""

    pid: int
    start: int  # address
    size: int  # bytes
    offset: int  # of the object, bytes
    path: str  # as the kernel has it, without " (deleted)"; a guess, see objects.py


class Usage:
    """The mappings of objects and segments, in all processes that can be read."""

    def __init__(self) -> None:
        self.objects: defaultdict[int, list[Use]] = defaultdict(list)  # by inode
        self.segments: defaultdict[int, list[Use]] = defaultdict(list)  # by shmid
        self.complete = True  # no process is hidden from this one
        # this process is in the first pid namespace, which sees all others
        self.outermost = pid_namespace() == INITIAL_PID_NAMESPACE


def usage_of_host(device: int) -> Usage:
    """Return the mappings of objects of that device, and of System V segments."""
    usage = Usage()
    place = b" %02x:%02x " % (os.major(device), os.minor(device))
    line = re.compile(LINE % place.strip())
    for pid in _pids():
        try:
            maps = _read(f"{PROC}/{pid}/maps")
        except PermissionError:
            usage.complete = False
            continue
        except OSError:  # it has ended
            continue
        if place in maps or b" /SYSV" in maps:
            _note(usage, pid, line, maps)
    usage.complete = usage.complete and usage.outermost and os.path.exists(FIRST)
    return usage


def _note(usage: Usage, pid: int, line: "re.Pattern[bytes]", maps: bytes) -> None:
    for start, end, offset, inode, path, number, sysv in line.findall(maps):
        name = os.fsdecode(path or sysv).removesuffix(" (deleted)")
        use = Use(pid, int(start, 16), int(end, 16) - int(start, 16), int(offset, 16), name)
        if inode:
            usage.objects[int(inode)].append(use)
        elif _shares_ipc(pid):
            usage.segments[int(number)].append(use)


def _shares_ipc(pid: int) -> bool:
    """Tell whether a process is in our ipc namespace: in another one, ids mean other segments."""
    try:
        return os.stat(f"{PROC}/{pid}/ns/ipc").st_ino == os.stat(f"{PROC}/self/ns/ipc").st_ino
    except OSError:
        return False


def _pids() -> Iterator[int]:
    try:
        entries = os.listdir(PROC)
    except OSError:
        entries = []
    return (int(entry) for entry in entries if entry.isdecimal())


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, BLOCK), b""))
    finally:
        os.close(fd)


# ---- descriptors -----------------------------------------------------------------------


def descriptors_of_host(device: int, directory: str) -> dict[int, dict[int, list[int]]]:
    """Return the descriptors that lead to objects of that device: by inode and by process."""
    found: dict[int, dict[int, list[int]]] = {}
    for pid in _pids():
        for fd, inode in descriptors_of(pid, device, directory):
            found.setdefault(inode, {}).setdefault(pid, []).append(fd)
    return found


def descriptors_of(pid: int, device: int, directory: str) -> Iterator[tuple[int, int]]:
    """Yield the descriptors of a process that lead to objects of that device, with the inodes."""
    try:
        entries = os.listdir(f"{PROC}/{pid}/fd")
    except OSError:  # not ours to look at, or ended
        return
    for entry in entries:
        path = f"{PROC}/{pid}/fd/{entry}"
        try:
            if os.readlink(path).startswith(f"{directory}/"):
                facts = os.stat(path)
                if facts.st_dev == device:
                    yield int(entry), facts.st_ino
        except OSError:
            continue


def processes(uses: list[Use], descriptors: dict[int, list[int]] | None) -> tuple[Process, ...]:
    """Return the processes of these mappings and descriptors (None: not asked for), by pid."""
    mapped = {use.pid for use in uses}
    pids = sorted(mapped | set(descriptors or ()))
    return tuple(
        Process(
            pid,
            command_of(pid),
            pid in mapped,
            None if descriptors is None else tuple(sorted(descriptors.get(pid, ()))),
        )
        for pid in pids
    )
