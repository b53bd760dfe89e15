"""Prune: remove unused regions that crashes have left behind, and nothing that is still in use.

There is no daemon, no tracker and no list of regions: the kernel tells which are unused. A
managed object is unused if no attachment of this package is present (presence.py) and no process
at all has it open or mapped. A System V segment is unused if no process has it attached. A dry
run disturbs no process: it claims nothing, takes no lease, and reads /proc.
"""

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

from .. import _native
from ..errors import RegionFormatError, RegionSizeError
from . import leases, presence, processes
from .companion import at_work
from .layouts import Reader, control_page
from .names import COMPANION, SHM_DIR, companion_of, leads_to, name_of, open_unnoticed, path_of

__all__ = ["prune"]

OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def prune(pattern: str = "*", *, dry_run: bool = True) -> list[str | int]:
    """Find, or remove, the regions of this host that no process uses any more.

    Unused are managed regions that no process is attached to, the objects that a killed resize
    left, and the lock objects of System V segments that are gone. Raw and sized objects stay, as
    a program may have left data in them on purpose. Objects of other users stay, unless this
    process is root, and so does every object that cannot be proven unused.

    A region that is unused only at this moment counts as unused, too. So call this while no
    process is about to use it again, such as at the start of a service. No process can attach to
    a region while it is being removed; `Region.open` makes a new one then. Never blocks for
    long: each object is checked without waiting.

    A dry run keeps no process out. It attaches a segment that no process has attached for a
    moment, to tell whether it is a managed region. It finds programs that do not use this
    package by /proc alone. A removal also asks the kernel for a lease of each unattached
    object. So it sees such programs in other containers, too, and may leave objects that a dry
    run lists. The kernel gives a lease of another user's object to root with CAP_LEASE or
    CAP_SETUID. An object stays if the kernel gives no lease of it.

    Args:
        pattern: a shell pattern of the names to check (``service-*``). A System V segment's name
            is its key, "0x00001234". Names that begin with "shm_async." are those of its lock
            object and of objects that a resize left.
        dry_run: only return the names that would be removed, as far as /proc shows.

    Returns:
        Names, and keys of System V segments, each sorted.

    Raises:
        PermissionError, OSError: /dev/shm cannot be listed.
    """
    names = sorted(os.listdir(SHM_DIR))
    keys = [key for key in _keys(names) if fnmatchcase(name_of(key), pattern)]
    names = [name for name in names if fnmatchcase(name, pattern)]
    visit = _Look(names) if dry_run else _Removal()
    found: list[str | int] = [name for name in names if _prune_name(name, visit)]
    return found + [key for key in keys if _prune_key(key, visit)]


prune.__module__ = "shm_async"


# ---- to look, and to remove ---------------------------------------------------------------


class _Look:
    """The checks of each object in a dry run."""

    def __init__(self, names: list[str]) -> None:
        self._open: Collection[int] = ()  # inodes that a process has open or mapped
        if names:
            device = os.stat(SHM_DIR).st_dev
            mapped = processes.usage_of_host(device).objects
            self._open = {*mapped, *processes.descriptors_of_host(device, SHM_DIR)}

    def is_open(self, fd: int) -> bool:
        return os.fstat(fd).st_ino in self._open

    def claim(self, fd: int, byte: int, name: str) -> bool:
        """Tell whether no process has that byte."""
        return not _native.claimed(fd, byte, name)

    def unlink(self, fd: int, name: str) -> bool:
        """Tell whether the name leads to that object."""
        facts = os.fstat(fd)
        return leads_to(name, (facts.st_dev, facts.st_ino))

    def remove(self, number: int) -> bool:
        return True


class _Removal(_Look):
    """The checks and the steps for each object when unused ones are removed."""

    def __init__(self) -> None:
        super().__init__([])

    def is_open(self, fd: int) -> bool:
        return leases.is_open_elsewhere(fd)

    def claim(self, fd: int, byte: int, name: str) -> bool:
        """Keep other processes out until `fd` is closed; False: another one has that byte."""
        return _native.claim(fd, byte, presence.ALONE, name)

    def unlink(self, fd: int, name: str) -> bool:
        """Remove the name, if it leads to that object."""
        with suppress(OSError):
            if super().unlink(fd, name):
                os.unlink(path_of(name))
                return True
        return False

    def remove(self, number: int) -> bool:
        """Remove a System V segment."""
        return _native.sysv_remove(number) >= 0


# ---- objects with a name ---------------------------------------------------------------


def _prune_name(name: str, visit: _Look) -> bool:
    """Visit an object. Tell whether it is ours and unused and, unless in a dry run, removed."""
    if name.startswith(COMPANION):
        return _prune_companion(name, visit)
    with _opened(name) as fd:
        if fd is None:
            return False

        def read(offset: int, size: int) -> bytes:
            return os.pread(fd, size, offset)

        if not _is_managed(read, os.fstat(fd).st_size, name):
            return False
        # Take no lease of an object in use, and none while this process has its presence byte:
        # the kernel ends the lease of a stopped process in time, and then it keeps nobody out.
        if presence.is_anybody(fd, name) or visit.is_open(fd):
            return False
        return visit.claim(fd, _native.PRESENCE_BYTE, name) and visit.unlink(fd, name)


@contextmanager
def _opened(name: str) -> Iterator[int | None]:
    """Open that object. Yield None if it is missing, not a file, or another user's."""
    try:
        fd = open_unnoticed(path_of(name), OPEN)
    except OSError:
        yield None
        return
    try:
        facts = os.fstat(fd)
        mine = os.geteuid() in (0, facts.st_uid)
        yield fd if mine and stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 else None
    finally:
        for byte in (_native.PRESENCE_BYTE, _native.CREATION_BYTE):
            _native.claim(fd, byte, presence.NOBODY, name)  # as a child forked meanwhile has `fd`
        os.close(fd)


def _is_managed(read: Reader, size: int, name: str) -> bool:
    try:
        return control_page(read, size, name) is not None
    except (RegionFormatError, RegionSizeError):
        return False  # the data of a damaged one may still be wanted


# ---- System V ----------------------------------------------------------------------------
#
# The companion of a managed segment is made before the segment, and removed after it.


def _keys(names: list[str]) -> Iterator[int]:
    for name in names:
        with suppress(ValueError):
            if name.startswith(COMPANION):
                yield int(name.removeprefix(COMPANION), 16)


def _prune_companion(name: str, visit: _Look) -> bool:
    """Visit a companion. It is unused if its segment is gone and no process locks it."""
    with _opened(name) as fd:
        if fd is None or _find(name) != -errno.ENOENT or _is_claimed(fd, name):
            return False
        if visit.is_open(fd) or not visit.claim(fd, _native.CREATION_BYTE, name):
            return False
        return _find(name) == -errno.ENOENT and visit.unlink(fd, name)


def _prune_key(key: int, visit: _Look) -> bool:
    """Visit a segment of ours. It and its companion are unused if no process has it attached."""
    name = companion_of(key)
    with _opened(name) as fd:
        # claimed: another process is creating, attaching or removing it
        if fd is None or not visit.claim(fd, _native.CREATION_BYTE, name):
            return False
        number = _native.sysv_find(key)
        if number < 0 or not _is_unused_segment(number, fd, name):
            return False
        return visit.remove(number) and visit.unlink(fd, name)


def _find(companion: str) -> int:
    """Return the id of a companion's segment, or -errno."""
    return next((_native.sysv_find(key) for key in _keys([companion])), -errno.EINVAL)


def _is_claimed(fd: int, name: str) -> bool:
    """Tell whether a process is creating, attaching or removing its segment."""
    return _native.claimed(fd, _native.CREATION_BYTE, name)


def _is_unused_segment(number: int, companion: int, name: str) -> bool:
    code, facts = _native.sysv_stat(number)
    if code < 0 or facts.attached or os.geteuid() not in (0, facts.uid):
        return False
    half_made = at_work(companion)
    if half_made:  # its creator died: did that creator make this segment, or another process?
        return bool(half_made == facts.creator_pid)

    def read(offset: int, size: int) -> bytes:
        code, data = _native.sysv_read(number, offset, size)
        return b"" if code < 0 else data

    return _is_managed(read, facts.size, name)
