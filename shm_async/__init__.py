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
from .holders import Holder
from .pruning import prune
from .region import Region
from .statistics import Statistics

__all__ = [
    "Hold",
    "Holder",
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
