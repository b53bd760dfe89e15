"""The control page: the last page of a managed segment, and checking what it says.

It is shared, writable memory, so its values are not trusted: `unpack` reads a
private copy and raises on every value that makes no sense. control.h has the
fields, their offsets and their meaning.
"""

import math
import os
import zlib
from dataclasses import dataclass

from .. import _native
from .._native import CONTROL_SIZE
from .._native import control_fields as fields_of
from ..errors import RegionFormatError
from .elements import MAX_NDIM, SIZES

__all__ = [
    "CONTROL_SIZE",
    "Control",
    "Mark",
    "fields_of",
    "managed_size",
    "mark",
    "pack",
    "pid_namespace",
    "process_identity",
    "start_of",
    "unpack",
]

MAGIC = b"shm_async region"
VERSION = 1
SPARSE = 1  # the only flag
CHECKED = slice(16, 124)  # bytes that the checksum covers
CHECKSUM = slice(124, 128)
PAGE = 4096  # of the format, whatever the machine's pages are


@dataclass(frozen=True, slots=True)
class Control:
    """The fields that never change. Sizes: `nbytes` in bytes, `shape` in elements."""

    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    sparse: bool
    creator_pid: int
    creator_start: int
    lineage: int  # a random number, the same in all regions that replace it
    epoch: int  # the number of replacements before it


@dataclass(frozen=True, slots=True)
class Mark:
    """The fields that a writer leaves in the control page. Any of them may be false."""

    generation: int  # odd: the writer is active, or died while it was
    pid: int  # as its own pid namespace counts
    start: int  # of the process, in clock ticks after boot; 0: not known
    since: int  # when it began to write, in nanoseconds of CLOCK_MONOTONIC
    namespace: int = 0  # the inode of that pid namespace; 0: not known


def managed_size(nbytes: int) -> int:
    """Return the size of a managed segment with `nbytes` of data, in bytes.

    That is whole pages, and the control page.
    """
    return -(-nbytes // PAGE) * PAGE + CONTROL_SIZE


def process_identity() -> tuple[int, int]:
    """Return this process's pid and start time, in clock ticks after boot (0 without /proc).

    The two together distinguish a process from a later one with the same pid.
    """
    return os.getpid(), start_of("self") or 0


def pid_namespace() -> int:
    """Return the inode of this process's pid namespace, which identifies it; 0 without /proc."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def start_of(pid: int | str) -> int | None:
    """Return when a process began, in clock ticks after boot; None: it ended, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # fields 3 and 22; the second, a name in brackets, may hold anything
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


def pack(
    *,
    shape: tuple[int, ...],
    dtype: str,
    sparse: bool,
    lineage: int | None = None,
    epoch: int = 0,
    generation: int = 0,
) -> bytes:
    """Return the control page of a new segment of this process; by default of a new lineage."""
    pid, start = process_identity()
    page = bytearray(
        _native.control_to_bytes(
            magic=MAGIC,
            version=VERSION,
            flags=SPARSE if sparse else 0,
            nbytes=math.prod(shape) * SIZES[dtype],
            lineage=int.from_bytes(os.urandom(8), "little") if lineage is None else lineage,
            epoch=epoch,
            generation=generation,
            ndim=len(shape),
            shape=shape,
            dtype=dtype.encode(),
            creator_pid=pid,
            creator_start=start,
        )
    )
    page[CHECKSUM] = _native.control_to_bytes(checksum=zlib.crc32(page[CHECKED]))[CHECKSUM]
    return bytes(page)


def mark(page: bytes) -> Mark | None:
    """Return the writer's mark from a copy of the page; None: no writer, or not a whole page."""
    if len(page) != CONTROL_SIZE:
        return None
    fields = _native.control_from_bytes(page)
    if not fields.generation & 1:
        return None
    return Mark(
        fields.generation,
        fields.writer_pid,
        fields.writer_start,
        since=fields.writer_since,
        namespace=fields.writer_ns,
    )


def unpack(page: bytes, size: int, name: str) -> Control | None:
    """Read the last page of a segment of `size` bytes.

    Returns:
        None when it is no control page: both its magic and its checksum are wrong.

    Raises:
        RegionFormatError: it is a control page, but one of its fields makes no sense.
    """
    fields = _native.control_from_bytes(page)
    magic_right = bytes(fields.magic) == MAGIC
    checksum_right = fields.checksum == zlib.crc32(page[CHECKED])
    if not magic_right and not checksum_right:
        return None

    def demand(right: bool, what: str) -> None:
        if not right:
            raise RegionFormatError(
                f"region {name!r} has a damaged control page: {what}; "
                "unlink it and create it again, or attach with layout='raw' to save the data"
            )

    demand(magic_right, "its magic is wrong")
    if fields.version != VERSION:
        raise RegionFormatError(
            f"region {name!r} has format version {fields.version}, "
            f"and this release knows version {VERSION} only: use the same release on both sides"
        )
    demand(checksum_right, "its checksum is wrong")
    dtype = bytes(fields.dtype).rstrip(b"\0").decode("ascii", "replace")
    demand(dtype in SIZES, f"its element type is {dtype!r}")
    demand(1 <= fields.ndim <= MAX_NDIM, f"it has {fields.ndim} dimensions")
    shape = tuple(fields.shape)[: fields.ndim]
    length = math.prod(shape)
    demand(length >= 1, f"its shape is {shape}")
    demand(fields.nbytes == length * SIZES[dtype], f"its shape {shape} and its size disagree")
    demand(managed_size(fields.nbytes) == size, f"it is for another size than {size} bytes")
    demand(fields.flags in (0, SPARSE), f"its flags are {fields.flags:#x}")
    return Control(
        nbytes=fields.nbytes,
        shape=shape,
        dtype=dtype,
        sparse=bool(fields.flags & SPARSE),
        creator_pid=fields.creator_pid,
        creator_start=fields.creator_start,
        lineage=fields.lineage,
        epoch=fields.epoch,
    )
