"""Names of POSIX objects, keys of System V segments, and where they lead."""

import os
import stat
from collections.abc import Callable

from .._failures import belongs_to_another
from ..errors import RegionFormatError

__all__ = [
    "COMPANION",
    "FD_DIR",
    "KEY_MAX",
    "NAME_MAX",
    "SHM_DIR",
    "SUCCESSOR",
    "check_belongs",
    "check_key",
    "check_kind",
    "check_mode",
    "check_name",
    "companion_of",
    "companion_path",
    "identity_at",
    "leads_to",
    "name_of",
    "open_unnoticed",
    "path_of",
]

SHM_DIR = "/dev/shm"
FD_DIR = "/proc/self/fd"
NAME_MAX = 255  # bytes
KEY_MAX = 2**32 - 1
COMPANION = "shm_async.sysv."  # begins the names of the objects that companion.py keeps locks on
SUCCESSOR = "shm_async.resize."  # begins the names of objects that are about to replace another

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# ---- of POSIX objects -------------------------------------------------------------


def check_name(name: str) -> str:
    """Return `name` without its optional leading slash.

    Raises:
        TypeError: not a str. ValueError: the message says which rule the name breaks.
    """
    if not isinstance(name, str):
        raise TypeError(f"a region's name must be a str, not {type(name).__name__}")
    bare = name.removeprefix("/")
    if not bare:
        raise ValueError(f"a region's name must not be empty: {name!r}")
    if "/" in bare:
        raise ValueError(f"a region's name must not contain '/' except in front: {name!r}")
    if "\0" in bare:
        raise ValueError(f"a region's name must not contain NUL: {name!r}")
    if bare in (".", ".."):
        raise ValueError(f"a region's name must not be '.' or '..': {name!r}")
    if bare.startswith((COMPANION, SUCCESSOR)):
        raise ValueError(f"shm_async reserves names that begin like this one: {name!r}")
    if len(os.fsencode(bare)) > NAME_MAX:
        raise ValueError(f"a region's name must have at most {NAME_MAX} bytes: {name!r}")
    return bare


def check_mode(mode: int) -> int:
    """Return `mode` if it is a set of permission bits, else raise TypeError or ValueError."""
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"mode must be an int such as 0o600, not {type(mode).__name__}")
    if not 0 <= mode <= 0o777:
        raise ValueError(f"mode must be between 0 and 0o777, not {mode:#o}")
    return mode


def path_of(name: str) -> str:
    """Return the path of the object with this (checked) name."""
    return f"{SHM_DIR}/{name}"


def check_kind(name: str, mode: int) -> None:
    """Raise RegionFormatError if `mode` is not that of a regular file."""
    for is_kind, kind in KINDS:
        if is_kind(mode):
            raise RegionFormatError(f"{path_of(name)} is {kind}, not a shared-memory object")


def check_belongs(name: str, uid: int, owner: str | int) -> None:
    """Refuse an object of another user than this one, root or `owner`; "any" allows them all."""
    if owner != "any" and uid not in (os.geteuid(), 0, owner):
        raise belongs_to_another(name, uid)


def identity_at(name: str) -> tuple[int, int] | None:
    """Return st_dev and st_ino of the object with that name; None: there is none."""
    try:
        found = os.lstat(path_of(name))
    except FileNotFoundError:
        return None
    return (found.st_dev, found.st_ino)


def open_unnoticed(path: str, flags: int) -> int:
    """Open an object, for a look that leaves its access time alone if this user may.

    The caller closes the descriptor. With O_NONBLOCK in `flags` it does not wait for a lease.

    Raises:
        OSError: as os.open.
    """
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # only its owner may open it without a new access time
        return os.open(path, flags)


def leads_to(name: str, identity: tuple[int, int]) -> bool:
    """Tell whether the name still leads to the object with this (st_dev, st_ino)."""
    return identity_at(name) == identity


# ---- of System V segments ---------------------------------------------------------


def check_key(key: int) -> int:
    """Return `key` if it is a System V key.

    Raises:
        TypeError: not an int. ValueError: out of range.
    """
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"a key must be an int, not {type(key).__name__}")
    if key == 0:
        raise ValueError("key 0 is IPC_PRIVATE, which is never shared: use None for a new key")
    if not 0 < key <= KEY_MAX:
        raise ValueError(f"a key must be between 1 and {KEY_MAX:#x}, not {key:#x}")
    return key


def name_of(key: int) -> str:
    """Return the name of a segment in messages: its key in hexadecimal."""
    return f"{key:#010x}"


def companion_path(name: str) -> str:
    """Return the path of the companion of the segment with that name in messages."""
    return path_of(f"{COMPANION}{name.removeprefix('0x')}")


def companion_of(key: int) -> str:
    """Return the name of the object that carries the segment's lock."""
    return f"{COMPANION}{key:08x}"
