"""The user and group that a new object is given to, and the errors if that fails.

Another lock, thread or event loop opens the object again, with the rights that the process has
then. A process that begins as root and becomes another user gives the object to that user.
"""

import errno
import grp
import os
import pwd
from dataclasses import dataclass

__all__ = ["KEPT", "Owners", "no_way", "refused", "resolve"]


@dataclass(frozen=True, slots=True)
class Owners:
    """The ids that a new object gets; -1: the creator's own."""

    uid: int = -1
    gid: int = -1

    def give(self, fd: int, name: str) -> None:
        """Give these owners an object that no other process sees yet.

        Raises:
            PermissionError: only root may give it to another user.
        """
        if self == KEPT:
            return
        try:
            os.fchown(fd, self.uid, self.gid)
        except PermissionError:
            raise refused(name) from None


KEPT = Owners()


def refused(name: str) -> PermissionError:
    """Return the exception for an object that may not be given away."""
    return PermissionError(
        errno.EPERM,
        "it cannot be given away: only root may create with another user=, and other users only "
        "with a group= that they are in",
        name,
    )


def resolve(user: int | str | None, group: int | str | None) -> Owners:
    """Return the ids of a user and a group, which may be given by name.

    Raises:
        TypeError: neither a name nor an id. ValueError: there is no such user or group.
    """
    return Owners(_uid(user), _gid(group))


def _uid(user: int | str | None) -> int:
    if not isinstance(user, str):
        return _id("user", user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {user!r}: give a name or an id") from None


def _gid(group: int | str | None) -> int:
    if not isinstance(group, str):
        return _id("group", group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r}: give a name or an id") from None


def _id(option: str, value: int | None) -> int:
    if value is None:
        return -1
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be a name or an id, not {type(value).__name__}")
    if not 0 <= value < 2**32 - 1:
        raise ValueError(f"{option} must be an id of 0 to {2**32 - 2}, not {value}")
    return value


def no_way(error: OSError, fd: int, name: str) -> OSError:
    """Return the exception for an object that was opened once and cannot be opened again now."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return _no_rights(fd, name)
    if error.errno == errno.ENOENT:
        return FileNotFoundError(
            errno.ENOENT,
            "it cannot be opened again for another lock: this process can no longer reach its name "
            "in /dev/shm or /proc (chroot?); open the region after the chroot, with /dev/shm "
            "bind-mounted there",
            name,
        )
    return error


def _no_rights(fd: int, name: str) -> PermissionError:
    found = os.fstat(fd)
    return PermissionError(
        errno.EACCES,
        f"it cannot be opened again for another lock: this process is user {os.geteuid()}, group "
        f"{os.getegid()} now, and the region belongs to user {found.st_uid}, group "
        f"{found.st_gid}, with mode {found.st_mode & 0o777:#05o}; create it with user=, group= or "
        "mode= (such as 0o660) that let this user open it",
        name,
    )
