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
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from . import segment
from .elements import check_length
from .errors import RegionExistsError, RegionNotFoundError
from .layouts import Layout
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

KEY_MAX = 2**32 - 2
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

    def attachments(self) -> int:
        """How many a System V segment has left, -1 if it is gone; always 1 for a POSIX object."""
        if self.last.key is None:
            return 1
        try:
            return self.last.attachments or 0
        except RegionNotFoundError:
            return -1

    def let_go(self) -> None:
        while self.attached:
            region, view = self.attached.pop()
            region.close(discard=True)
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
            None if key is None else _check_key(key),
            count,
            dtype=TYPES[type_key],
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
    layout: Layout = "sized" if isinstance(key, str) else "raw"
    try:
        region = Region.attach(_check_key(key), dtype=TYPES[type_key], layout=layout)
    except RegionNotFoundError:
        return None
    return _array(region, type_key, created=0)


def detach(key: int | str, force_destroy: bool = False) -> int:
    """End every attachment of this process to that segment, and its arrays.

    Never blocks, but to destroy an empty object that this process never had: then for the
    second in which its creator, if there is one, should have filled it.

    A System V segment is destroyed with its last attachment, in whatever process; a POSIX
    object only if asked to.

    Returns:
        0: it was destroyed. 1 or more: it was not; how many attachments others have to a System V
        segment, always 1 for a POSIX object. -1: there is no such segment, or this process
        never had it and is not to destroy it.

    Raises:
        PermissionError: another user's, so not ours to destroy. RegionSizeError: an empty object,
        of which its creator died. ValueError, TypeError: no key.
    """
    key = _check_key(key)
    known = _known.get(key)
    if known is None:
        return _destroy_unknown(key) if force_destroy else -1
    known.let_go()
    left = known.attachments()
    if left > 0 and not force_destroy:
        return left
    _known.pop(key, None)
    return _unlink(known.last) if left >= 0 else -1


def destroy(key: int | str) -> bool:
    """Detach and destroy a segment, whoever else is attached. Tell whether there was one."""
    return detach(key, force_destroy=True) == 0


def detach_all() -> int:
    """Detach everything, and return how many System V segments that destroyed.

    It runs at exit, too. What cannot be destroyed is logged, and the rest goes on.
    """
    return sum(_detach_or_log(key) == 0 and isinstance(key, int) for key in list(_known))


def _detach_or_log(key: int | str) -> int:
    try:
        return detach(key)
    except OSError as error:
        logger.warning("cannot destroy the segment %r: %s", key, error)
        return -1


def get_total_size() -> int:
    """Bytes that this process has attached, headers included."""
    return sum(known.bytes_attached() for known in list(_known.values()))


def get_total_created_size() -> int:
    """Bytes that this process has created and not destroyed, headers included."""
    return sum(known.created for known in list(_known.values()))


# ---- exits, signals, forks -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CleansUp:
    """A signal handler that detaches everything, and then does what was done before."""

    before: Callable[[int, FrameType | None], Any] | signal.Handlers

    def __call__(self, number: int, frame: FrameType | None) -> None:
        detach_all()
        if callable(self.before):
            self.before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def cleanup_on_signals(*numbers: signal.Signals) -> None:
    """Run `detach_all` when one of these signals comes, SIGTERM and SIGINT if none is given.

    The handler that was there runs afterwards; where there was none the signal still kills.
    A signal that is ignored stays ignored. Once they came, the arrays are detached:
    ask for it where these signals mean the end. For the main thread; doing it twice is fine.
    """
    for number in numbers or (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if before == signal.SIG_IGN or before is None or isinstance(before, _CleansUp):
            continue  # None: somebody's who is not Python's
        signal.signal(number, _CleansUp(before))  # type: ignore[arg-type]  # an int is a Handlers


def _after_fork_in_child() -> None:
    for known in _known.values():
        known.created = 0  # its parent's


atexit.register(detach_all)
os.register_at_fork(after_in_child=_after_fork_in_child)


# ---- steps ---------------------------------------------------------------------


def _array(region: Region, type_key: str, *, created: int) -> SharedArray:
    """Make the array, and know of it from now on."""
    array, view = make(region, f"/{region.name}" if region.key is None else region.key, type_key)
    known = _known.setdefault(_check_key(array.key), _Known(region))
    if not known.last._segment.linked():  # somebody destroyed it, and this is another one
        known.created = 0
    known.last = region
    known.created = created or known.created
    known.attached.append((region, view))
    return array


def _bytes_of(region: Region) -> int:
    return region.nbytes + (HEADER if region.layout == "sized" else 0)


def _destroy_unknown(key: int | str) -> int:
    try:
        region = Region.attach(key, layout="raw", readonly=True)
    except RegionNotFoundError:
        return -1
    with region:
        return _unlink(region)


def _unlink(region: Region) -> int:
    try:
        region.unlink()
    except RegionNotFoundError:
        return -1
    return 0


def _check_type_key(type_key: str) -> None:
    if not isinstance(type_key, str) or type_key not in TYPES:
        raise ValueError(f"unknown type key {type_key!r}: choose one of {', '.join(TYPES)}")


def _check_count(count: int) -> int:
    count = check_length(count, "count")
    if count > LENGTH_MAX:
        raise ValueError(f"count must be at most {LENGTH_MAX}, not {count}")
    return count


def _check_perm(perm: int | str) -> int:
    if isinstance(perm, bool) or not isinstance(perm, int | str):
        raise TypeError(f"perm must be an int or a str, not {type(perm).__name__}")
    if isinstance(perm, str):
        if not re.fullmatch("[0-7]{1,3}", perm):
            raise ValueError(f"perm must be up to three octal digits such as '660', not {perm!r}")
        return int(perm, 8)
    if not 0 <= perm <= 0o777:
        raise ValueError(f"perm must be between 0 and 0o777, not {perm}: write 0o660 or '660'")
    return perm


def _check_key(key: int | str) -> int | str:
    """The key as it is known by: a name without its slash."""
    if isinstance(key, str):
        return segment.check_name(key)
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"key must be an int or a str, not {type(key).__name__}")
    if not 1 <= key <= KEY_MAX:
        raise ValueError(f"key must be between 1 and {KEY_MAX}, not {key}")
    return key
