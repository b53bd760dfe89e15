"""The place of the data in a segment: planned at creation, recognised on attach."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import RegionFormatError, RegionSizeError
from . import control
from .elements import HAS_FLOAT16, SIZES

Layout = Literal["managed", "raw", "sized"]

#: The header of a sized object: the number of bytes of data.
HEADER = struct.Struct("@N")  # a native size_t

#: Reads `size` bytes at `offset` of the segment; fewer if it ends before.
Reader = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """The layout, the element type, the shape and the size of a region."""

    layout: Layout
    dtype: str
    shape: tuple[int, ...]  # elements
    size: int  # bytes to map: the header, the data and, if managed, up to the control page's end
    sparse: bool  # made without reserving its memory, on purpose

    @property
    def length(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.length * SIZES[self.dtype]

    @property
    def offset(self) -> int:
        """The offset of the data, in bytes."""
        return HEADER.size if self.layout == "sized" else 0

    def head(self) -> bytes:
        """Return the first bytes of a new segment of this plan."""
        return HEADER.pack(self.nbytes) if self.layout == "sized" else b""

    def tail(self, **descent: int) -> bytes:
        """Return its last bytes; `descent` is for a replacement of another, see control.pack."""
        if self.layout != "managed":
            return b""
        return control.pack(shape=self.shape, dtype=self.dtype, sparse=self.sparse, **descent)


def check_layout(layout: Layout) -> Layout:
    """Return `layout` if it is a layout, else raise ValueError or TypeError."""
    if not isinstance(layout, str):
        raise TypeError(f"layout must be a str, not {type(layout).__name__}")
    if layout not in get_args(Layout):
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(get_args(Layout))}")
    return layout


def plan(shape: tuple[int, ...], *, dtype: str, layout: Layout, sparse: bool) -> Plan:
    """Lay out a new region."""
    nbytes = math.prod(shape) * SIZES[dtype]
    if layout == "managed":
        size = control.managed_size(nbytes)
    else:
        size = nbytes + (HEADER.size if layout == "sized" else 0)
    return Plan(layout, dtype, shape, size, sparse)


# ---- recognise -----------------------------------------------------------------------


def recognise(
    read: Reader,
    size: int,
    name: str,
    *,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    layout: Layout | None,
) -> Plan:
    """Find out the plan of a segment of `size` bytes, and check it against the caller's request.

    Raises:
        RegionFormatError: another layout, dtype or shape, a damaged control page or header.
        RegionSizeError: smaller than asked for, or not a whole number of elements.
    """
    if layout == "sized":
        return _sized(read, size, name, shape=shape, dtype=dtype or "uint8")
    page = None if layout == "raw" else control_page(read, size, name)
    if page is not None:
        return _managed(page, size, name, shape=shape, dtype=dtype)
    if layout == "managed":
        raise RegionFormatError(
            f"region {name!r} has no control page, so it is not managed: "
            "another program made it; attach with layout='raw'"
        )
    dtype = dtype or "uint8"
    shape = _fitting(size, name, shape=shape, dtype=dtype)
    return Plan("raw", dtype, shape, math.prod(shape) * SIZES[dtype], sparse=False)


def control_page(read: Reader, size: int, name: str) -> control.Control | None:
    """Return the control page of a segment of `size` bytes; None if it is not managed.

    Raises:
        RegionFormatError: it is damaged. RegionSizeError: the segment was truncated meanwhile.
    """
    if size < 2 * control.PAGE or size % control.PAGE:
        return None
    page = read(size - control.CONTROL_SIZE, control.CONTROL_SIZE)
    if len(page) < control.CONTROL_SIZE:
        raise RegionSizeError(f"region {name!r} was truncated just now")
    return control.unpack(page, size, name)


def _managed(
    page: control.Control,
    size: int,
    name: str,
    *,
    shape: tuple[int, ...] | None,
    dtype: str | None,
) -> Plan:
    if dtype not in (None, page.dtype):
        raise RegionFormatError(
            f"region {name!r} has elements of {page.dtype}, not {dtype}: "
            f"attach with dtype={page.dtype!r}, or without dtype"
        )
    if page.dtype == "float16" and not HAS_FLOAT16:
        raise RegionFormatError(
            f"region {name!r} has elements of float16, which need Python 3.12 or newer: "
            "attach with layout='raw' and dtype='uint16'"
        )
    if shape is None:
        shape = page.shape
    elif len(shape) > 1 and shape != page.shape:
        raise RegionFormatError(
            f"region {name!r} has the shape {page.shape}, not {shape}: "
            "attach without shape, or with a length for one dimension"
        )
    length = math.prod(page.shape)
    if math.prod(shape) > length:
        raise RegionSizeError(
            f"region {name!r} has {length} elements of {page.dtype}, not {math.prod(shape)}: "
            "attach() without a length takes all that it has, and resize() makes it larger"
        )
    return Plan("managed", page.dtype, shape, size, page.sparse)


def _sized(
    read: Reader, size: int, name: str, *, shape: tuple[int, ...] | None, dtype: str
) -> Plan:
    header = read(0, HEADER.size)
    nbytes: int = HEADER.unpack(header)[0] if len(header) == HEADER.size else 0

    def demand(right: bool, what: str) -> None:
        if not right:
            raise RegionFormatError(
                f"region {name!r} has a header that says {nbytes} bytes of data, and {what}: "
                "it is damaged, half-made, or not sized; attach with layout='raw' to look at it"
            )

    demand(nbytes > 0, "there must be some")
    demand(HEADER.size + nbytes <= size, f"its {size} bytes cannot hold them")
    demand(nbytes % SIZES[dtype] == 0, f"that is no whole number of {dtype} elements")
    shape = _fitting(nbytes, name, shape=shape, dtype=dtype)
    return Plan("sized", dtype, shape, HEADER.size + math.prod(shape) * SIZES[dtype], sparse=False)


def _fitting(
    nbytes: int, name: str, *, shape: tuple[int, ...] | None, dtype: str
) -> tuple[int, ...]:
    """Return the requested shape if it fits in `nbytes` bytes, by default all their elements."""
    itemsize = SIZES[dtype]
    if shape is None:
        if nbytes % itemsize:
            raise RegionSizeError(
                f"region {name!r} has {nbytes} bytes, no whole number of {dtype} elements: "
                "attach with a length or another dtype"
            )
        return (nbytes // itemsize,)
    length = math.prod(shape)
    if length * itemsize > nbytes:
        raise RegionSizeError(
            f"region {name!r} has {nbytes} bytes, less than {length} elements of {dtype} "
            f"({length * itemsize} bytes): attach() without a length takes all that it has"
        )
    return shape
