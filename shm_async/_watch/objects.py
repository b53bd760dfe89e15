"""The shared-memory objects and System V segments of this host, found and read quietly.

This module takes no lock, and maps and creates nothing. Opening a file breaks another process's
write lease on it, and closing one ends this process's own fcntl(2) locks of it. So an object with
such a lease or lock is not opened. A System V segment cannot be read without attaching it, so
it is read through the memory of a process that has it attached.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from .._memory import processes
from .._memory.names import SHM_DIR, companion_of, name_of, open_unnoticed, path_of
from .._memory.processes import Usage, Use
from .._memory.proclocks import Row

__all__ = ["Found", "objects_of_host", "read_quietly", "segments_of_host"]

SYSV_LIST = "/proc/sysvipc/shm"
SHM_DEST = 0o1000  # in a segment's mode: removed, and still attached
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: The kernel's name for an object that was made without a name, even after it got one.
NAMELESS = re.compile(r"#\d+")


@dataclass(frozen=True, slots=True)
class Found:
    """An object or a segment."""

    name: str
    key: int | None  # of a System V segment, as in its name
    id: int | None  # its shmid
    linked: bool
    path: str | None  # to open it by; None: there is none
    inode: int | None  # of the object that carries its lock; None: there is none
    size: int  # bytes
    allocated: int | None  # bytes of memory that it takes up
    uid: int | None  # None: this user may not know
    gid: int | None
    mode: int | None
    attached: int | None  # shm_nattch
    uses: list[Use]


# ---- objects ---------------------------------------------------------------------------


def objects_of_host(usage: Usage, device: int) -> Iterator[Found]:
    """Yield the regular files of /dev/shm, and mapped objects that have lost their name there."""
    named = dict(_named())
    for inode, entry in named.items():
        with suppress(OSError):  # removed just now
            facts = os.lstat(path_of(entry))
            if stat.S_ISREG(facts.st_mode) and facts.st_ino == inode:
                path = path_of(entry)
                yield _object(entry, facts, usage.objects.get(inode, []), path, linked=True)
    for inode in usage.objects.keys() - named.keys():
        orphan = _unlinked(inode, usage.objects[inode], device)
        if orphan is not None:
            yield orphan


def _named() -> Iterator[tuple[int, str]]:
    with os.scandir(SHM_DIR) as entries:
        for entry in entries:
            yield entry.inode(), entry.name


def _object(name: str, facts: os.stat_result, uses: list[Use], path: str, *, linked: bool) -> Found:
    return Found(
        name=name,
        key=None,
        id=None,
        linked=linked,
        path=path,
        inode=facts.st_ino,
        size=facts.st_size,
        allocated=facts.st_blocks * 512,
        uid=facts.st_uid,
        gid=facts.st_gid,
        mode=stat.S_IMODE(facts.st_mode),
        attached=None,
        uses=uses,
    )


def _unlinked(inode: int, uses: list[Use], device: int) -> Found | None:
    """Return an object that has no name; None: it has got one meanwhile."""
    names = [os.path.basename(use.path) for use in uses]
    name = next((name for name in names if not NAMELESS.fullmatch(name)), names[0])
    for path in _ways_to(inode, uses, device):
        with suppress(OSError):
            facts = os.stat(path)
            if (facts.st_dev, facts.st_ino) == (device, inode):
                return (
                    _object(name, facts, uses, path, linked=False) if not facts.st_nlink else None
                )
    if any(inode == now for now, _ in _named()):
        return None
    size = max(use.offset + use.size for use in uses)  # at least
    return Found(name, None, None, False, None, inode, size, None, None, None, None, None, uses)


def _ways_to(inode: int, uses: list[Use], device: int) -> Iterator[str]:
    for pid in {use.pid for use in uses}:
        for fd, other in processes.descriptors_of(pid, device, SHM_DIR):
            if other == inode:
                yield f"{processes.PROC}/{pid}/fd/{fd}"
    for use in uses:  # this needs a capability
        yield f"{processes.PROC}/{use.pid}/map_files/{use.start:x}-{use.start + use.size:x}"


# ---- System V --------------------------------------------------------------------------


def segments_of_host(usage: Usage) -> Iterator[Found]:
    """Yield the System V segments of this ipc namespace."""
    try:
        with open(SYSV_LIST) as file:
            lines = file.read().splitlines()
    except OSError:  # a kernel without them
        return
    names = lines[0].split() if lines else []
    for line in lines[1:]:
        yield _segment(dict(zip(names, map(int, line.split()), strict=False)), usage)


def _segment(facts: dict[str, int], usage: Usage) -> Found:
    uses = usage.segments.get(facts["shmid"], [])
    key = facts["key"] % 2**32 or _former_key(uses)
    mode = int(str(facts["perms"]), 8)
    companion = None
    with suppress(OSError):
        companion = os.lstat(path_of(companion_of(key))).st_ino
    return Found(
        name=name_of(key),
        key=key,
        id=facts["shmid"],
        linked=not mode & SHM_DEST,
        path=None,
        inode=companion if facts["key"] else None,
        size=facts["size"],
        allocated=facts.get("rss"),
        uid=facts["uid"],
        gid=facts["gid"],
        mode=mode & 0o777,
        attached=facts["nattch"],
        uses=uses,
    )


def _former_key(uses: list[Use]) -> int:
    """Return the key of a removed segment, from the name of its mappings; 0: not known."""
    for use in uses:
        with suppress(ValueError):
            return int(use.path.removeprefix("/SYSV"), 16)
    return 0


# ---- reading ---------------------------------------------------------------------------


def read_quietly(found: Found, rows: list[Row], offset: int, size: int) -> bytes:
    """Return bytes of an object or a segment, fewer if it ends before. `rows` are its locks.

    Raises:
        PermissionError: this user may not read it. OSError: EBUSY, reading it would disturb a
            process.
    """
    if found.key is not None:
        return _through_a_process(found, offset, size)
    if found.path is None:
        raise PermissionError(errno.EACCES, "this user may not read its processes", found.name)
    if any(_forbids_to_open(row) for row in rows):
        raise OSError(errno.EBUSY, "a process has a lease of it, or this one has fcntl locks of it")
    flags = OPEN if found.linked else OPEN & ~os.O_NOFOLLOW
    fd = open_unnoticed(found.path, flags)
    try:
        return os.pread(fd, size, offset) if os.fstat(fd).st_ino == found.inode else b""
    finally:
        os.close(fd)


def _forbids_to_open(row: Row) -> bool:
    return row.sort == "LEASE" or (row.sort == "POSIX" and row.pid == os.getpid())


def _through_a_process(found: Found, offset: int, size: int) -> bytes:
    problem = OSError(errno.EBUSY, "no process has it attached, and to attach it would count")
    for use in found.uses:
        if use.offset or use.size < found.size:
            continue
        try:
            fd = os.open(f"{processes.PROC}/{use.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            problem = error
            continue
        try:
            return os.pread(fd, size, use.start + offset)
        except OSError as error:
            problem = error
        finally:
            os.close(fd)
    raise problem
