"""Replacing an object that has a name by a larger or smaller one."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from .._failures import not_found
from . import presence, room
from .mapping import Mapping
from .names import SUCCESSOR, path_of
from .posix import PosixSegment
from .publish import fill, publish
from .segment import Prepare, Segment

__all__ = ["copy_sparsely", "put_in_place"]

CHUNK = 1 << 20  # bytes that are copied at once


def put_in_place(
    old: Segment,
    size: int,
    *,
    reserve: bool,
    tail: bytes,
    prepare: Prepare,
    about_to_rename: Callable[[], None],
) -> tuple[Segment, Mapping]:
    """Replace `old` by an object of `size` bytes, with the mode and owner of `old`.

    `about_to_rename` is called when the new object is complete. If anything raises, `old`
    still has its name. A process that is killed may leave the new object under a name that
    begins with SUCCESSOR.

    Raises:
        RegionNotFoundError: the name leads to `old` no more. OSError.
    """
    name = old.name
    facts = os.fstat(old.fd)
    mode = stat.S_IMODE(facts.st_mode)

    def make(fd: int) -> tuple[Segment, Mapping]:
        if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, facts.st_uid, facts.st_gid)
        fill(fd, name=name, size=size, mode=mode, reserve=reserve, head=b"", tail=tail)
        presence.announce(fd, name)
        made = PosixSegment(fd, name)
        return made, prepare(made)

    temporary = f"{SUCCESSOR}{os.urandom(8).hex()}"
    made = publish(temporary, make)
    try:
        if not old.linked():
            raise not_found(name, "the name was removed or now leads to another object")
        about_to_rename()
        os.rename(path_of(temporary), path_of(name))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path_of(temporary))
        made[0].close()
        raise
    return made


def copy_sparsely(source: Segment, target: Segment, size: int) -> None:
    """Copy the first `size` bytes, and leave holes as they are.

    Raises:
        OSError: ENOSPC.
    """
    end = 0
    fd = source.fd
    try:
        while end < size:
            start = _seek(fd, end, os.SEEK_DATA)
            end = min(size, _seek(fd, start, os.SEEK_HOLE))
            _copy(fd, target, start, end)
    except _OnlyHolesError:
        pass
    finally:
        os.lseek(fd, source.mark.position, os.SEEK_SET)  # the position identifies it as ours


class _OnlyHolesError(Exception):
    """Raised by `_seek` when only holes follow."""


def _seek(fd: int, offset: int, whence: int) -> int:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        raise _OnlyHolesError if error.errno == errno.ENXIO else error from None


def _copy(source: int, target: Segment, start: int, end: int) -> None:
    fd = target.fd
    while start < end:
        data = os.pread(source, min(end - start, CHUNK), start)
        try:
            start += os.pwrite(fd, data, start)
        except OSError as error:
            raise room.no_room(target.name, end) if error.errno == errno.ENOSPC else error from None
