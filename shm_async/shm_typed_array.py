"""The API of the Node package shm-typed-array 0.1.1, on top of Region.

It works together with Node processes that run that package: System V segments by number,
POSIX objects by name, whose first 8 bytes are the byte count. The return values are the
original's. The differences, with their reasons:

* An array whose segment was detached raises at every use; in the original that is a crash.
* A store that does not fit raises struct.error; JavaScript cuts the value off. (Floats become
  infinite and Uint8ClampedArray clamps, as there.)
* An object is attached once for each type, even after many calls of `get`, and dropping the last
  array detaches it. So `get` for each message is fine. A System V segment that this process
  created stays attached until `detach`: its data must not end with an array.
* Every attachment of this process counts: `detach` ends all of them, and the totals are always
  right. The original forgets all but the first one of each key.
* A false header, or a key, name, type or permission that makes no sense, raises an exception
  that names it. The original reads beyond the end, or gives 660 a wrong meaning.
* The memory of a new POSIX object is reserved: a full /dev/shm is an OSError, never a SIGBUS.
* The permissions are exactly the requested ones; in the original the umask cuts them.
* The clean-up at exit prints nothing; the original prints how many segments it destroyed.
* Arrays take no lock, as in the original. ``array.region`` has one, which the original ignores.

Without a lock, readers and writers cannot crash, but they see half-made changes. The locks of
Region prevent that.

A forked child has its parent's attachments as its own. Its `detach` calls and its exit never
destroy a segment that its parent, or another process, is attached to.
"""

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from weakref import WeakSet, finalize

from ._memory.layouts import Layout
from ._memory.segment import Segment
from ._region import Region
from ._shared_array import (
    LENGTH_MAX,
    TYPES,
    SharedArray,
    check_count,
    check_key,
    check_perm,
    check_type_key,
    make,
)
from .errors import RegionExistsError, RegionNotFoundError

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

#: Every type key, with the number that the original gives it.
BufferType: dict[str, int] = {type_key: number for number, type_key in enumerate(TYPES)}

HEADER = 8  # bytes in front of a POSIX object's data

logger: logging.Logger = logging.getLogger("shm_async")


class _Attached(Region):
    """The region below arrays: it lives as long as they do, and needs no close."""

    __slots__ = ()

    _keeps_spares = False

    @property
    def segment(self) -> Segment:
        """The kernel's object behind the mapping."""
        return self._attachment.segment

    def __del__(self) -> None:
        closing = getattr(self, "_closing", None)
        if closing is not None and not closing.locked() and not sys.is_finalizing():
            self.close()


@dataclass(slots=True)
class _Known:
    """The facts that this process knows of one key, kept as long as there is a segment."""

    segment: Segment  # the last one that was attached, or still is
    created: int = 0  # bytes, header included, if it was this process that created it
    kept: Region | None = None  # a System V segment that this process created
    regions: WeakSet[_Attached] = field(default_factory=WeakSet)  # their arrays keep them
    views: dict[int, memoryview] = field(default_factory=dict)

    # Invariant: views has the view whose release ends an array, by the array's id, until the
    # array is dropped.

    def bytes_attached(self) -> int:
        return sum(_bytes_of(region) for region in list(self.regions))

    def attachments(self) -> int:
        """Count the attachments of a System V segment, -1 if it is gone; 1 for a POSIX object."""
        if self.segment.key is None:
            return 1
        try:
            return self.segment.attachments() or 0
        except RegionNotFoundError:
            return -1

    def is_old(self) -> bool:
        """Tell whether it is unused: its segment is gone, and nothing here is left of it."""
        return not self.regions and not self.created and not self.segment.linked()

    def attached(self, dtype: str) -> _Attached | None:
        """Return the region that is attached with these elements, if the key still leads to it."""
        for region in list(self.regions):
            if region.dtype == dtype and not region.closed and region.linked:
                return region
        return None

    def let_go(self) -> None:
        self.kept = None
        for region in list(self.regions):
            region.close(discard=True)
        self.regions.clear()
        for view in list(self.views.values()):
            view.release()
        self.views.clear()


#: The facts by System V key, or by POSIX name without its slash.
_known: dict[int | str, _Known] = {}

#: The number of known keys from which on unused ones are searched for.
TIDY_FROM = 64
_tidy_at = TIDY_FROM


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
        key: a number of 1 to 0xFFFFFFFE for a System V segment, None for one with an unused key,
            a str for a POSIX object.
        perm: permission bits, as an int (0o660) or in octal digits ("660").

    Raises:
        ValueError, TypeError: an argument makes no sense.
        OSError: ENOSPC, ENOMEM, EINVAL: no room.
    """
    check_type_key(type_key)
    count = check_count(count)
    try:
        region = _Attached.create(
            None if key is None else check_key(key),
            count,
            dtype=TYPES[type_key],
            layout="sized" if isinstance(key, str) else "raw",
            mode=check_perm(perm),
        )
    except RegionExistsError:
        return None
    return _array(region, type_key, created=_bytes_of(region))


def get(key: int | str, type_key: str = "Buffer") -> SharedArray | None:
    """Attach to a segment and return an array over all of it; None if there is none.

    A second call with the same type uses the same attachment. May block for up to a second while
    its creator is at work.

    Args:
        key: a System V key or a POSIX name, as for `create`.
        type_key: as for `create`.

    Raises:
        RegionFormatError: the size in a POSIX object's header is larger than the object, zero,
            or not a multiple of the element size.
        RegionSizeError: a System V segment's size is not a multiple of it.
        PermissionError: its mode or its owner forbids it.
        ValueError, TypeError: an argument makes no sense.
    """
    check_type_key(type_key)
    known = _known.get(check_key(key))
    region = None if known is None else known.attached(TYPES[type_key])
    if region is None:
        region = _attach(key, type_key)
    return None if region is None else _array(region, type_key, created=0)


def _attach(key: int | str, type_key: str) -> _Attached | None:
    layout: Layout = "sized" if isinstance(key, str) else "raw"
    try:
        return _Attached.attach(check_key(key), dtype=TYPES[type_key], layout=layout)
    except RegionNotFoundError:
        return None


def detach(key: int | str, force_destroy: bool = False) -> int:
    """End every attachment of this process to that segment, and its arrays.

    Never blocks, with one exception: destroying an empty object that this process never had
    blocks for a second, in which its creator may fill it.

    A System V segment is destroyed with its last attachment, in any process; a POSIX object only
    with `force_destroy`.

    Args:
        key: a System V key or a POSIX name, as for `create`.
        force_destroy: destroy it although other processes have it attached.

    Returns:
        0: it was destroyed. 1 or more: it was not destroyed; the number of attachments that other
        processes have to a System V segment, always 1 for a POSIX object. -1: there is no such
        segment; or, without `force_destroy`, this process never had it.

    Raises:
        PermissionError: it is another user's.
        RegionSizeError: the object is empty, as its creator died.
        ValueError, TypeError: not a key.
    """
    key = check_key(key)
    known = _known.get(key)
    if known is None:
        return _destroy_unknown(key) if force_destroy else -1
    known.let_go()
    left = known.attachments()
    if left > 0 and not force_destroy:
        return left
    _known.pop(key, None)
    return _unlink(known.segment) if left >= 0 else -1


def destroy(key: int | str) -> bool:
    """Detach and destroy a segment, even if others are attached. Tell whether there was one.

    Blocks as `detach` does. Arguments and errors are those of `detach`.
    """
    return detach(key, force_destroy=True) == 0


def detach_all() -> int:
    """Detach everything, and return how many System V segments that destroyed.

    It runs at exit, too. Never blocks and raises nothing: it logs each segment that cannot be
    destroyed, and goes on.
    """
    return sum(_detach_or_log(key) == 0 and isinstance(key, int) for key in list(_known))


def _detach_or_log(key: int | str) -> int:
    try:
        return detach(key)
    except OSError as error:
        logger.warning("cannot destroy the segment %r: %s", key, error)
        return -1


def get_total_size() -> int:
    """Return the bytes that this process has attached, headers included.

    Never blocks and raises nothing.
    """
    return sum(known.bytes_attached() for known in list(_known.values()))


def get_total_created_size() -> int:
    """Return the bytes that this process has created and not destroyed, headers included.

    Never blocks and raises nothing. In a forked child it counts from 0.
    """
    return sum(known.created for known in list(_known.values()))


# ---- exits, signals, forks -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CleansUp:
    """A signal handler that detaches everything, and then calls the handler before it."""

    before: Callable[[int, FrameType | None], Any] | int  # or signal.SIG_DFL

    def __call__(self, number: int, frame: FrameType | None) -> None:
        detach_all()
        if callable(self.before):
            self.before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def cleanup_on_signals(*numbers: signal.Signals) -> None:
    """Run `detach_all` when one of these signals comes, by default SIGTERM and SIGINT.

    The previous handler runs afterwards; without one the signal still kills. An ignored signal
    stays ignored. A signal detaches the arrays, so use this only for signals that end the
    program. Calling it twice is fine. Never blocks.

    Args:
        numbers: signals, such as ``signal.SIGTERM``.

    Raises:
        ValueError: called in another thread than the main one.
        OSError: no such signal.
    """
    for number in numbers or (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if before == signal.SIG_IGN or before is None or isinstance(before, _CleansUp):
            continue  # None: the handler was not installed by Python
        signal.signal(number, _CleansUp(before))


def _after_fork_in_child() -> None:
    for known in _known.values():
        known.created = 0  # its parent's


atexit.register(detach_all)
os.register_at_fork(after_in_child=_after_fork_in_child)


# ---- steps ---------------------------------------------------------------------


def _array(region: _Attached, type_key: str, *, created: int) -> SharedArray:
    """Make the array, and record it."""
    array, view = make(region, f"/{region.name}" if region.key is None else region.key, type_key)
    segment = region.segment
    known = _known.setdefault(check_key(array.key), _Known(segment))
    if not known.segment.linked():  # it was destroyed, and this is another segment
        known.created = 0
        known.kept = None
    known.segment = segment
    if created:
        known.created = created
        known.kept = None if region.key is None else region
    known.regions.add(region)
    known.views[id(array)] = view
    finalize(array, known.views.pop, id(array), None).atexit = False
    _tidy()
    return array


def _tidy() -> None:
    """Forget keys that lead nowhere any more, when the number of keys has doubled.

    So a program that uses another name for each message does not grow.
    """
    global _tidy_at
    if len(_known) >= _tidy_at:
        for key, known in list(_known.items()):
            if known.is_old():
                _known.pop(key, None)
        _tidy_at = max(TIDY_FROM, 2 * len(_known))


def _bytes_of(region: Region) -> int:
    return region.nbytes + (HEADER if region.layout == "sized" else 0)


def _destroy_unknown(key: int | str) -> int:
    try:
        region = _Attached.attach(key, layout="raw", readonly=True)
    except RegionNotFoundError:
        return -1
    with region:
        return _unlink(region.segment)


def _unlink(segment: Segment) -> int:
    try:
        segment.unlink()
    except RegionNotFoundError:
        return -1
    return 0
