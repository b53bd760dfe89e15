"""The objects that carry the locks of System V segments.

A System V segment has no descriptor that could take flock(2). So its lock lives on an
empty POSIX object, its *companion*, which every attachment finds by the segment's key. sysv.py
has the protocol.
"""

import errno
import fcntl
import os
import struct
from contextlib import suppress
from functools import partial

from .. import _native
from ..errors import RegionExistsError
from . import leases, presence
from .names import check_belongs, check_kind, companion_of, leads_to, name_of, path_of
from .ownership import KEPT, Owners
from .presence import SHARED
from .publish import publish

__all__ = [
    "AT_WORK",
    "at_work",
    "begin_work",
    "bury",
    "claim",
    "cookie_of",
    "disclaim",
    "open_known",
    "open_or_make",
    "random_below",
    "whose",
    "work_is_done",
]

#: The content of a companion: the pid of a creator that is at work, or 0; and its cookie.
AT_WORK = struct.Struct("@I")
COOKIE, COOKIE_AT = struct.Struct("@Q"), 8

#: Attempts to open or make it: each failure means that another process removed it meanwhile.
LOOK_UPS = 100


def whose(uid: int, gid: int) -> Owners:
    """Return the owners for the companion of a segment that belongs to `uid` and `gid`.

    Only root can give it to them; for other users it is KEPT.
    """
    return Owners(uid, gid) if os.geteuid() == 0 else KEPT


def open_or_make(
    key: int,
    kind: int,
    mode: int,
    owners: Owners,
    *,
    uid: int,
    owner: str | int,
    readonly: bool = False,
) -> int:
    """Open the companion, making it if there is none, with its creation byte claimed.

    It must belong to this user, root, or the segment's owner `uid`. An owner could replace it,
    and then two processes would lock different objects.
    """
    for _ in range(LOOK_UPS):
        fd = open_known(key, kind, uid=uid, owner=owner, readonly=readonly)
        if fd is not None:
            return fd
        with suppress(RegionExistsError):  # another process was faster
            os.close(publish(companion_of(key), partial(_empty, mode=mode, owners=owners)))
    raise OSError(errno.EBUSY, f"{_path(key)} keeps being removed: try again", name_of(key))


def _empty(fd: int, *, mode: int, owners: Owners) -> int:
    owners.give(fd, "")
    os.fchmod(fd, mode)
    os.pwrite(fd, COOKIE.pack(1 + random_below(2**64 - 1)), COOKIE_AT)
    return fd


def cookie_of(fd: int) -> int:
    """Return the companion's cookie; 0: it has none."""
    found = os.pread(fd, COOKIE.size, COOKIE_AT)
    return int(COOKIE.unpack(found)[0]) if len(found) == COOKIE.size else 0


def at_work(fd: int) -> int:
    """Return the pid of the creator that is at work, or died at work; 0: there is none."""
    found = os.pread(fd, AT_WORK.size, 0)
    return int(AT_WORK.unpack(found)[0]) if len(found) == AT_WORK.size else 0


def begin_work(fd: int) -> None:
    """Note that this process is about to make the segment."""
    os.pwrite(fd, AT_WORK.pack(os.getpid()), 0)


def work_is_done(fd: int) -> None:
    """Note that no process is making the segment any more."""
    os.pwrite(fd, AT_WORK.pack(0), 0)


def open_known(
    key: int, kind: int, *, uid: int, owner: str | int, readonly: bool = False
) -> int | None:
    """Open the companion, with its creation byte claimed; None if there is none."""
    try:
        fd = _open(key, readonly)
    except FileNotFoundError:
        return None
    except OSError:
        check_kind(companion_of(key), os.lstat(_path(key)).st_mode)  # a better answer
        raise
    try:
        found = os.fstat(fd)
        check_kind(companion_of(key), found.st_mode)
        if found.st_uid != uid:
            check_belongs(companion_of(key), found.st_uid, owner)
        claim(fd, key, kind)
        if leads_to(companion_of(key), (found.st_dev, found.st_ino)):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)  # removed meanwhile
    return None


def _path(key: int) -> str:
    return path_of(companion_of(key))


def _open(key: int, readonly: bool) -> int:
    if not readonly:
        with suppress(PermissionError):  # then open it for reading: it can take a flock, too
            return _open_for(key, os.O_RDWR)
    return _open_for(key, os.O_RDONLY)


def _open_for(key: int, access: int) -> int:
    return leases.open_patiently(_path(key), access | os.O_NOFOLLOW, name_of(key))


def claim(fd: int, key: int, kind: int) -> None:
    """Claim the creation byte. Another claimer needs microseconds, if it is not stopped."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        kind = SHARED  # all that the kernel allows
    presence.claim_patiently(fd, _native.CREATION_BYTE, kind, name_of(key), "creating or removing")


def disclaim(fd: int, key: int) -> None:
    """Release the creation byte."""
    _native.claim(fd, _native.CREATION_BYTE, presence.NOBODY, name_of(key))


def bury(key: int, fd: int) -> None:
    """Remove the claimed companion of a segment that is gone, if this user may."""
    if _native.sysv_find(key) == -errno.ENOENT:
        with suppress(FileNotFoundError, PermissionError):
            os.unlink(_path(key))


def random_below(end: int) -> int:
    """Return an unpredictable number from 0 to `end` - 1. `secrets` would take ms to import."""
    return int.from_bytes(os.urandom(16), "little") % end
