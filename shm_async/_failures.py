"""The exceptions of a region that cannot be opened or used, with advice in their messages."""

import errno
import os

from .errors import (
    RegionClosedError,
    RegionExistsError,
    RegionNotFoundError,
    RegionReplacedError,
    WouldBlockError,
)

__all__ = [
    "belongs_to_another",
    "closed",
    "exists",
    "lost",
    "not_found",
    "parted",
    "replaced",
    "supplanted",
    "would_block",
]


# ---- a segment -------------------------------------------------------------------


def exists(name: str) -> RegionExistsError:
    """Return the exception for a name, or a key, that is taken."""
    return RegionExistsError(
        errno.EEXIST, "the region exists already: attach to it, or use Region.open", name
    )


def not_found(name: str, why: str) -> RegionNotFoundError:
    """Return the exception for a region that is not there."""
    return RegionNotFoundError(errno.ENOENT, why, name)


def belongs_to_another(name: str, uid: int) -> PermissionError:
    """Return the exception for a segment of an untrusted user."""
    return PermissionError(
        errno.EACCES,
        f"the region belongs to user {uid}, not to you ({os.geteuid()}) or root: "
        "attach with owner='any' if you trust that user",
        name,
    )


def lost(name: str) -> OSError:
    """Return the exception for an object that cannot be opened again."""
    return OSError(
        errno.EBADFD,
        "its descriptors were closed by this program, and its name leads to it no more: close it "
        "and open it again; region.filenos() lists the descriptors to keep open",
        name,
    )


def parted(name: str, companion: str) -> OSError:
    """Return the exception for a segment that others may lock by another companion than ours.

    `companion` is the path of ours.
    """
    return OSError(
        errno.EIDRM,
        f"{companion}, which carries its lock, was removed or is not the one that other processes "
        "use: logind removed it (RemoveIPC=), or this process sees another /dev/shm; close the "
        "region in all processes, then attach again",
        name,
    )


# ---- a region and its lock ---------------------------------------------------------


def closed(name: str) -> RegionClosedError:
    """Return the exception for use after close."""
    return RegionClosedError(f"region {name!r} is closed: open it again")


def replaced(name: str) -> RegionReplacedError:
    """Return the exception for use of a region that another one has replaced."""
    return RegionReplacedError(
        errno.ESTALE,
        "it was resized, so another one has its name: attach again, or open it with follow=True",
        name,
    )


def supplanted(name: str) -> RegionReplacedError:
    """Return the exception for a region whose name, or key, leads to a new one."""
    return RegionReplacedError(
        errno.ESTALE,
        "it was unlinked, and a new region has its name: attach again, or open it with follow=True",
        name,
    )


def would_block(name: str, exclusive: bool) -> WouldBlockError:
    """Return the exception for a lock that is not free, for a caller that does not wait."""
    kind = "write" if exclusive else "read"
    return WouldBlockError(errno.EWOULDBLOCK, f"the {kind} lock is not free", name)
