"""Making objects in /dev/shm that no other process sees before they are complete."""

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from .. import _native
from .._failures import exists
from . import room
from .names import FD_DIR, SHM_DIR, path_of

__all__ = ["fill", "publish", "publish_by_name", "reserve_memory"]

T = TypeVar("T")


def publish(name: str, make: Callable[[int], T]) -> T:
    """Give a name to a new object after `make` has made it complete.

    Raises:
        RegionExistsError: the name is taken.
    """
    try:
        fd = os.open(SHM_DIR, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # no O_TMPFILE here
            raise
        return publish_by_name(name, make)
    try:
        made = make(fd)
        _link(fd, name)
    except FileNotFoundError:  # no /proc to link from
        os.close(fd)
        return publish_by_name(name, make)
    except BaseException:
        os.close(fd)
        raise
    return made


def publish_by_name(name: str, make: Callable[[int], T]) -> T:
    """Create where O_TMPFILE or /proc is missing.

    The object has its name at once, but no size. The last step gives it size and content
    together. A process that attaches meanwhile finds an empty object, and waits.
    """
    try:
        fd = os.open(path_of(name), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise exists(name) from None
    try:
        return make(fd)
    except BaseException:
        os.unlink(path_of(name))  # ours; a process that attached just now keeps an unlinked one
        os.close(fd)
        raise


def fill(
    fd: int, *, name: str, size: int, mode: int, reserve: bool, head: bytes, tail: bytes
) -> None:
    """Give an empty object its mode, its memory and, last, its size and content."""
    os.fchmod(fd, mode)  # the umask does not apply
    if reserve:
        reserve_memory(fd, name, size)
    try:
        if tail:
            os.pwrite(fd, tail, size - len(tail))  # one page: size and content appear as one
        else:
            os.ftruncate(fd, size)
        if head:
            os.pwrite(fd, head, 0)  # a process that sees zeroes there waits
    except OSError as error:
        raise OSError(error.errno, f"cannot make {size} bytes: {error.strerror}", name) from None


def reserve_memory(fd: int, name: str, size: int) -> None:
    """Have the kernel reserve (zero) `size` bytes. Blocks meanwhile.

    Raises:
        OSError: ENOSPC, with the bytes that are free.
    """
    try:
        _native.reserve(fd, size, name)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and room.HOST.free_bytes() == room.OFF_MAX:
            return  # ramfs: it cannot be full
        raise room.no_room(name, size) if error.errno == errno.ENOSPC else error from None


def _link(fd: int, name: str) -> None:
    directory = os.open(SHM_DIR, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # with a dir_fd it is linkat(AT_SYMLINK_FOLLOW); plain link() would link the /proc entry
        os.link(f"{FD_DIR}/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        raise exists(name) from None
    finally:
        os.close(directory)
