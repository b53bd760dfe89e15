"""Where the data lies in a segment: planned at creation, recognised on attach."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from . import control
from .elements import HAS_FLOAT16, SIZES
from .errors import RegionFormatError, RegionSizeError

Layout = Literal["managed", "raw", "sized"]

#: What a sized object begins with: the data's byte count.
HEADER = struct.Struct("@N")  # a native size_t

#: Reads `size` bytes at `offset` of the segment; fewer if it ends before.
Reader = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a region is made of."""

    layout: Layout
    dtype: str
    shape: tuple[int, ...]  # elements
    size: int  # bytes to map: the data and, if managed, all up to the end of the control page
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
        """Where the data begins, in bytes."""
        return HEADER.size if self.layout == "sized" else 0

    def head(self) -> bytes:
        """What a new segment of this plan begins with."""
        return HEADER.pack(self.nbytes) if self.layout == "sized" else b""

    def tail(self, **descent: int) -> bytes:
        """What it ends with; `descent` is for one that replaces another, see control.pack."""
        if self.layout != "managed":
            return b""
        return control.pack(shape=self.shape, dtype=self.dtype, sparse=self.sparse, **descent)


def check_layout(layout: Layout) -> Layout:
    """Return `layout` if there is such a one, else raise ValueError or TypeError."""
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
    """Find out what the segment of `size` bytes is, and whether it is what was asked for.

    Raises:
        RegionFormatError: another layout, dtype or shape, a damaged control page or header.
        RegionSizeError: smaller than asked for, or no whole number of elements.
    """
    if layout == "sized":
        return _sized(read, size, name, shape=shape, dtype=dtype or "uint8")
    page = None if layout == "raw" else control_page(read, size, name)
    if page is not None:
        return _managed(page, size, name, shape=shape, dtype=dtype)
    if layout == "managed":
        raise RegionFormatError(
            f"region {name!r} has no control page, it is not managed: "
            "somebody else made it; attach with layout='raw'"
        )
    dtype = dtype or "uint8"
    shape = _fitting(size, name, shape=shape, dtype=dtype)
    return Plan("raw", dtype, shape, math.prod(shape) * SIZES[dtype], sparse=False)


def control_page(read: Reader, size: int, name: str) -> control.Control | None:
    """The control page of a segment of `size` bytes; None if it is not managed.

    Raises:
        RegionFormatError: it is damaged. RegionSizeError: truncated meanwhile.
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
            f"attach with dtype={page.dtype!r} or without dtype"
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
            "attach without shape, or with a length to have it flat"
        )
    length = math.prod(page.shape)
    if math.prod(shape) > length:
        raise RegionSizeError(
            f"region {name!r} has {length} elements of {page.dtype}, not {math.prod(shape)}: "
            "ask for fewer, or unlink it and create it again"
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
    """The shape of that many bytes of elements, or the one that was asked for, if it fits."""
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
            f"({length * itemsize} bytes): ask for fewer, or unlink it and create it again"
        )
    return shape
