"""Shared memory between processes, guarded by a read/write lock that can be awaited."""

from .errors import (
    LockTimeoutError,
    OwnerDiedError,
    RegionClosedError,
    RegionExistsError,
    RegionFormatError,
    RegionNotFoundError,
    RegionReplacedError,
    RegionSizeError,
    ShmError,
    WouldBlockError,
)
from .hold import Hold
from .pruning import prune
from .region import Region
from .statistics import Statistics

__all__ = [
    "Hold",
    "LockTimeoutError",
    "OwnerDiedError",
    "Region",
    "RegionClosedError",
    "RegionExistsError",
    "RegionFormatError",
    "RegionNotFoundError",
    "RegionReplacedError",
    "RegionSizeError",
    "ShmError",
    "Statistics",
    "WouldBlockError",
    "prune",
]
