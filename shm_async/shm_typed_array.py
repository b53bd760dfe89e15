"""The API of the Node package shm-typed-array 0.1.1, on top of Region.

It works together with Node processes that run that package: System V segments by number,
POSIX objects by name, whose first 8 bytes are the byte count. The return values are the
original's. What differs, and why:

* An array whose segment was detached refuses to be used; in the original that is a crash.
* A store that does not fit is struct's error; JavaScript cuts it off. (Floats become infinite and
  Uint8ClampedArray clamps, as there.)
* Every attachment of this process counts: `detach` ends all of them, the totals never go
  wrong. The original loses sight of all but the first one of each key.
* A header that lies, a key, name, type or permission that makes no sense: an exception
  that names it. The original reads beyond the end, or takes 660 for what it likes.
* The memory of a new POSIX object is reserved: a full /dev/shm is an OSError, never a SIGBUS.
* The permissions are those asked for; the original's are cut by the umask.
* The clean-up at exit says nothing; the original prints how many segments it destroyed.
* Nobody loses a lock, as there is none: ``array.region`` has one, which the original ignores.

One more reader or writer needs no lock to be safe from crashes, but sees half-made changes
without one: see Region for what waits and excludes.

A forked child has its parent's attachments as its own: what it detaches, and its exit, never
destroys a segment that its parent, or anybody else, is attached to.
"""

import atexit
import logging
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from . import segment
from .errors import RegionExistsError, RegionNotFoundError
from .region import Region
from .shared_array import TYPES, SharedArray, make

__all__ = [
    "LENGTH_MAX",
    "BufferType",
    "cleanup_on_signals",
    "create",
    "destroy",
    "detach",
    "detach_all",
    "get",
    "get_total_created_size",
    "get_total_size",
]

#: The most elements that `create` takes. The original says 2**32 (Node 20), but hands counts
#: on as 32-bit numbers, so that 2**32 is none.
LENGTH_MAX = 2**32 - 1

#: Every type key, with the number that the original gives it.
BufferType = {type_key: number for number, type_key in enumerate(TYPES)}

HEADER = 8  # bytes in front of a POSIX object's data

logger = logging.getLogger(__package__)


@dataclass(slots=True)
class _Known:
    """What this process knows of one key: it is kept until the segment is destroyed."""

    last: Region  # open or not: what unlink and attachments are asked of
    created: int = 0  # bytes, header included, if it was this process that created it
    attached: list[tuple[Region, memoryview]] = field(default_factory=list)

    def bytes_attached(self) -> int:
        return sum(_bytes_of(region) for region, _ in self.attached)

    def let_go(self) -> None:
        while self.attached:
            region, view = self.attached.pop()
            region.close()
            view.release()


#: By System V key, or POSIX name without its slash.
_known: dict[int | str, _Known] = {}


def create(
    count: int,
    type_key: str = "Buffer",
    key: int | str | None = None,
    perm: int | str = 0o660,
) -> SharedArray | None:
    """Create a segment and return an array over it; None if the key is taken.

    Blocks while the kernel reserves the memory. The array's elements are zero.

    Args:
        count: number of elements, 1 to LENGTH_MAX.
        type_key: "Buffer", "Int8Array", ... "Float64Array".
        key: a number of 1 to 2**32 - 2 for a System V segment, None for one with a fresh key, a str
            for a POSIX object.
        perm: permission bits, as an int (0o660) or in octal digits ("660").

    Raises:
        ValueError, TypeError: an argument makes no sense. OSError: ENOSPC, ENOMEM, EINVAL: no room.
    """
    _check_type_key(type_key)
    count = _check_count(count)
    try:
        region = Region.create(
            key,
            count,
            dtype=TYPES[type_key][0],
            layout="sized" if isinstance(key, str) else "raw",
            mode=_check_perm(perm),
        )
    except RegionExistsError:
        return None
    return _array(region, type_key, created=_bytes_of(region))


def get(key: int | str, type_key: str = "Buffer") -> SharedArray | None:
    """Attach to a segment and return an array over all of it; None if there is none.

    May block for up to a second while its creator is at work.

    Raises:
        RegionFormatError: a POSIX object's header is larger than the object, zero, or no
            multiple of the element size. RegionSizeError: a System V segment's size is not.
        PermissionError: its mode or its owner forbids it.
        ValueError, TypeError: an argument makes no sense.
    """
    _check_type_key(type_key)
    layout = "sized" if isinstance(key, str) else "raw"
    try:
        region = Region.attach(key, dtype=TYPES[type_key][0], layout=layout)
    except RegionNotFoundError:
        return None
    return _array(region, type_key, created=0)


def detach(key: int | str, force_destroy: bool = False) -> int:
    """End every attachment of this process to that segment, and its arrays. Never blocks.

    A System V segment is destroyed with its last attachment, in whatever process; a POSIX
    object only if asked to.

    Returns:
        0: it was destroyed. 1 or more: it was not; how many other attachments a System V segment
        has, always 1 for a POSIX object. -1: there is no such segment, or it is
        not known here and need not be destroyed.

    Raises:
        PermissionError: another user's, so not ours to destroy. ValueError, TypeError: no key.
    """
    key = _check_key(key)
    known = _known.get(key)
    if known is None:
        return _destroy_unknown(key) if force_destroy else -1
    known.let_go()
    left = 1 if isinstance(key, str) else _attachments(known.last)
    if left and not force_destroy:
        return left
    _known.pop(key, None)
    return _unlink(known.last)


def destroy(key: int | str) -> bool:
    """Detach and destroy a segment, whoever else is attached. Tell whether there was one."""
    return detach(key, force_destroy=True) == 0


def detach_all() -> int:
    """Detach everything; return how many System V segments that destroyed. It runs at exit, too."""
    return sum(isinstance(key, int) and detach(key) == 0 for key in list(_known))


def get_total_size() -> int:
    """Bytes that this process has attached, headers included."""
    return sum(known.bytes_attached() for known in list(_known.values()))


def get_total_created_size() -> int:
    """Bytes that this process has created and not destroyed, headers included."""
    return sum(known.created for known in list(_known.values()))
