"""Where the data lies in a segment: planned at creation, recognised on attach."""

import os
from dataclasses import dataclass
from typing import Literal, get_args

from . import control
from .elements import SIZES
from .errors import RegionFormatError, RegionSizeError

Layout = Literal["managed", "raw"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a region is made of. The data starts at byte 0 in every layout."""

    layout: Layout
    dtype: str
    length: int  # elements
    size: int  # bytes to map: the data and, if managed, all up to the end of the control page
    sparse: bool  # made without reserving its memory, on purpose

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.length * SIZES[self.dtype]


def check_layout(layout: Layout) -> Layout:
    """Return `layout` if there is such a one, else raise ValueError or TypeError."""
    if not isinstance(layout, str):
        raise TypeError(f"layout must be a str, not {type(layout).__name__}")
    if layout not in get_args(Layout):
        raise ValueError(f"unknown layout {layout!r}: choose one of {', '.join(get_args(Layout))}")
    return layout


def plan(length: int, *, dtype: str, layout: Layout, sparse: bool) -> Plan:
    """Lay out a new region."""
    nbytes = length * SIZES[dtype]
    size = control.managed_size(nbytes) if layout == "managed" else nbytes
    return Plan(layout, dtype, length, size, sparse)


def recognise(
    fd: int,
    size: int,
    name: str,
    *,
    length: int | None,
    dtype: str | None,
    layout: Layout | None,
) -> Plan:
    """Find out what the object of `size` bytes is, and whether it is what was asked for.

    Raises:
        RegionFormatError: another layout or dtype, or a damaged control page.
        RegionSizeError: smaller than asked for, or no whole number of elements.
    """
    page = None if layout == "raw" else _control_page(fd, size, name)
    if page is not None:
        return _managed(page, size, name, length=length, dtype=dtype)
    if layout == "managed":
        raise RegionFormatError(
            f"region {name!r} has no control page, it is not managed: "
            "somebody else made it; attach with layout='raw'"
        )
    return _raw(size, name, length=length, dtype=dtype or "uint8")


def _control_page(fd: int, size: int, name: str) -> control.Control | None:
    if size < 2 * control.PAGE or size % control.PAGE:
        return None
    page = os.pread(fd, control.CONTROL_SIZE, size - control.CONTROL_SIZE)
    if len(page) < control.CONTROL_SIZE:
        raise RegionSizeError(f"region {name!r} was truncated just now")
    return control.unpack(page, size, name)


def _managed(
    page: control.Control, size: int, name: str, *, length: int | None, dtype: str | None
) -> Plan:
    if dtype not in (None, page.dtype):
        raise RegionFormatError(
            f"region {name!r} has elements of {page.dtype}, not {dtype}: "
            f"attach with dtype={page.dtype!r} or without dtype"
        )
    if length is not None and length > page.length:
        raise RegionSizeError(
            f"region {name!r} has {page.length} elements of {page.dtype}, not {length}: "
            "ask for fewer, or unlink it and create it again"
        )
    return Plan("managed", page.dtype, length or page.length, size, page.sparse)


def _raw(size: int, name: str, *, length: int | None, dtype: str) -> Plan:
    itemsize = SIZES[dtype]
    if length is None:
        if size % itemsize:
            raise RegionSizeError(
                f"region {name!r} has {size} bytes, no whole number of {dtype} elements: "
                "attach with a length or another dtype"
            )
        length = size // itemsize
    if length * itemsize > size:
        raise RegionSizeError(
            f"region {name!r} has {size} bytes, less than {length} elements of {dtype} "
            f"({length * itemsize} bytes): ask for fewer, or unlink it and create it again"
        )
    return Plan("raw", dtype, length, length * itemsize, sparse=False)
