"""Shared memory between processes, guarded by a read/write lock that can be awaited."""

from .errors import (
    LockTimeoutError,
    RegionClosedError,
    RegionExistsError,
    RegionFormatError,
    RegionNotFoundError,
    RegionSizeError,
    ShmError,
    WouldBlockError,
)
from .hold import Hold
from .region import Region
from .statistics import Statistics

__all__ = [
    "Hold",
    "LockTimeoutError",
    "Region",
    "RegionClosedError",
    "RegionExistsError",
    "RegionFormatError",
    "RegionNotFoundError",
    "RegionSizeError",
    "ShmError",
    "Statistics",
    "WouldBlockError",
]
