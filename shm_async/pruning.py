"""Prune: remove what crashes have left behind, and nothing that anybody may still want.

There is no daemon, no tracker and no list of what exists: what is unused is found by asking the
kernel. A managed object is unused if no attachment of this package is present (presence.py) and
nobody at all has it open or mapped; a System V segment, if nobody has it attached.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase

from . import _native, presence, segment, sysv
from .errors import RegionFormatError, RegionSizeError
from .layouts import Reader, control_page

__all__ = ["prune"]


def prune(pattern: str = "*", *, dry_run: bool = True) -> list[str | int]:
    """Find, or remove, the regions of this host that nobody uses any more.

    That is: managed regions that nobody is attached to; what a resize left that was killed; the
    lock objects of System V segments that are gone. Raw and sized objects stay, as others may
    have left something in them on purpose; so does what belongs to another user, unless you are
    root, and whatever cannot be proven unused.

    A region that is only not in use at this moment is unused, too: this is for when those who
    would want it again are not there, such as the start of a service. Nobody can attach to
    a region while it is being removed; `Region.open` makes a new one then. Never blocks for
    long: each object is looked at without waiting.

    Args:
        pattern: of the names to look at, as a shell has them ("service-*"); a System V segment
            has its key as its name, "0x00001234", its lock object and what a resize left
            names that begin with "shm_async.".
        dry_run: only tell what would be removed.

    Returns:
        Names, and keys of System V segments, sorted.

    Raises:
        PermissionError, OSError: /dev/shm cannot be listed.
    """
    names = sorted(os.listdir(segment.SHM_DIR))
    keys = [key for key in _keys(names) if fnmatchcase(sysv.name_of(key), pattern)]
    found: list[str | int] = [
        name for name in names if fnmatchcase(name, pattern) and _prune_name(name, dry_run)
    ]
    return found + [key for key in keys if _prune_key(key, dry_run)]


# ---- objects with a name ---------------------------------------------------------------


def _prune_name(name: str, dry_run: bool) -> bool:
    """Remove that object if it is ours and unused; tell whether it is, or was."""
    if name.startswith(segment.COMPANION):
        return _prune_companion(name, dry_run)
    with _opened(name) as fd:
        if fd is None:
            return False

        def read(offset: int, size: int) -> bytes:
            return os.pread(fd, size, offset)

        if not _is_managed(read, os.fstat(fd).st_size, name):
            return False
        return _is_unused(fd, name) and _remove(fd, name, dry_run)


@contextmanager
def _opened(name: str) -> Iterator[int | None]:
    """A descriptor of that object; None: it is not there, not a file, or not ours to look at."""
    try:
        fd = os.open(
            segment.path_of(name), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        yield None
        return
    try:
        facts = os.fstat(fd)
        mine = os.geteuid() in (0, facts.st_uid)
        yield fd if mine and stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 else None
    finally:
        for byte in (presence.PRESENCE_BYTE, sysv.CREATION_BYTE):
            _native.claim(fd, byte, presence.NOBODY, name)  # a child forked meanwhile has `fd`, too
        os.close(fd)


def _is_managed(read: Reader, size: int, name: str) -> bool:
    try:
        return control_page(read, size, name) is not None
    except (RegionFormatError, RegionSizeError):
        return False  # a damaged one may be wanted for its data


def _is_unused(fd: int, name: str) -> bool:
    """Whether nobody is present; nobody of us can attach as long as `fd` is open then."""
    return presence.take_alone(fd, name) and not presence.is_open_elsewhere(fd)


def _remove(fd: int, name: str, dry_run: bool) -> bool:
    facts = os.fstat(fd)
    if not segment.leads_to(name, (facts.st_dev, facts.st_ino)):
        return False
    if not dry_run:
        try:
            os.unlink(segment.path_of(name))
        except OSError:
            return False
    return True


# ---- System V ----------------------------------------------------------------------------
#
# A managed segment has its companion from before it is made until after it is removed.


def _keys(names: list[str]) -> Iterator[int]:
    for name in names:
        with suppress(ValueError):
            if name.startswith(segment.COMPANION):
                yield int(name.removeprefix(segment.COMPANION), 16)


def _prune_companion(name: str, dry_run: bool) -> bool:
    """Remove a companion whose segment is gone and that nobody locks."""
    with _opened(name) as fd:
        if fd is None or _find(name) != -errno.ENOENT or presence.is_open_elsewhere(fd):
            return False
        return _claimed(fd, name) and _find(name) == -errno.ENOENT and _remove(fd, name, dry_run)


def _prune_key(key: int, dry_run: bool) -> bool:
    """Remove a segment of ours that nobody has attached, and its companion."""
    name = sysv.companion_of(key)
    with _opened(name) as fd:
        if fd is None or not _claimed(fd, name):
            return False
        number = _native.sysv_find(key)
        if number < 0 or not _is_unused_segment(number, fd, name):
            return False
        return dry_run or (_native.sysv_remove(number) >= 0 and _remove(fd, name, dry_run))


def _find(companion: str) -> int:
    """The id of a companion's segment, or -errno."""
    return next((_native.sysv_find(key) for key in _keys([companion])), -errno.EINVAL)


def _claimed(fd: int, name: str) -> bool:
    """Keep out who creates, attaches or removes, until `fd` is closed; False: one is at it."""
    return _native.claim(fd, sysv.CREATION_BYTE, presence.ALONE, name)


def _is_unused_segment(number: int, companion: int, name: str) -> bool:
    code, facts = _native.sysv_stat(number)
    if code < 0 or facts.attached or os.geteuid() not in (0, facts.uid):
        return False
    half_made = os.pread(companion, sysv.AT_WORK.size, 0)
    if half_made:  # its creator died; is it that one's, and not one that others made before?
        return sysv.AT_WORK.unpack(half_made) == (facts.creator_pid,)

    def read(offset: int, size: int) -> bytes:
        code, data = _native.sysv_read(number, offset, size)
        return b"" if code < 0 else data

    return _is_managed(read, facts.size, name)
