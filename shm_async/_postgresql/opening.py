"""From an address and options to a region in PostgreSQL."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._memory.elements import SIZES, check_dtype, required_shape
from ..errors import RegionSizeError
from . import conninfo
from .address import parse, terms_of
from .region import PostgresRegion
from .rows import Spec

if TYPE_CHECKING:
    from .._memory.elements import DTypeLike

__all__ = ["open_region"]


def open_region(
    address: str,
    length: int | None,
    *,
    dtype: "DTypeLike",
    shape: Sequence[int] | None,
    options: dict[str, Any],
) -> "PostgresRegion":
    """The region at an address ``postgresql://…#name``. Does no I/O."""
    where = parse(address)
    terms = terms_of(options)
    kind = check_dtype(dtype)
    dims = required_shape(length, shape)
    nbytes = math.prod(dims) * SIZES[kind]
    if nbytes > terms.max_bytes:
        raise RegionSizeError(
            f"region {where.name!r} would have {nbytes} bytes, and each store sends them all: the "
            f"limit is max_bytes={terms.max_bytes}; split the data, or raise it"
        )
    spec = Spec(where.name, kind, dims, nbytes, terms, conninfo.read(where.conninfo))
    return PostgresRegion(spec)
