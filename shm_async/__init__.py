"""Shared memory between processes, guarded by a read/write lock that can be awaited."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._forks import importing
from .errors import (
    LockLostError,
    LockTimeoutError,
    OwnerDiedError,
    RegionClosedError,
    RegionExistsError,
    RegionFormatError,
    RegionNotFoundError,
    RegionReplacedError,
    RegionServerError,
    RegionSizeError,
    ShmError,
    WouldBlockError,
)

if TYPE_CHECKING:  # imported at first use, as they take longer than all the rest
    from ._lock.hold import Hold
    from ._lock.statistics import Statistics
    from ._lock.transaction import Transaction
    from ._memory.processes import Process
    from ._memory.proclocks import Holder
    from ._memory.prune import prune
    from ._open_region import open_region
    from ._region import Region
    from ._shared_region import SharedHold, SharedRegion
    from ._watch.changes import Changes
    from ._watch.inspection import RegionInfo, inspect

__all__ = [
    "Changes",
    "Hold",
    "Holder",
    "LockLostError",
    "LockTimeoutError",
    "OwnerDiedError",
    "Process",
    "Region",
    "RegionClosedError",
    "RegionExistsError",
    "RegionFormatError",
    "RegionInfo",
    "RegionNotFoundError",
    "RegionReplacedError",
    "RegionServerError",
    "RegionSizeError",
    "SharedHold",
    "SharedRegion",
    "ShmError",
    "Statistics",
    "Transaction",
    "WouldBlockError",
    "inspect",
    "open_region",
    "prune",
]

__version__ = "0.1.0"  # pyproject.toml reads it here

#: The module of each name that is imported at first use.
_HOMES = {
    "Changes": "_watch.changes",
    "Hold": "_lock.hold",
    "Holder": "_memory.proclocks",
    "Process": "_memory.processes",
    "Region": "_region",
    "RegionInfo": "_watch.inspection",
    "SharedHold": "_shared_region",
    "SharedRegion": "_shared_region",
    "Statistics": "_lock.statistics",
    "Transaction": "_lock.transaction",
    "inspect": "_watch.inspection",
    "open_region": "_open_region",
    "prune": "_memory.prune",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing:
        value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def _show_all() -> None:
    """Import the modules of `_HOMES`. Never called: it shows these imports to freezing tools."""
    from . import _open_region, _region, _shared_region  # noqa: F401  # such tools look for statements
    from ._lock import hold, statistics, transaction  # noqa: F401  # such tools look for statements
    from ._memory import processes, proclocks, prune  # noqa: F401  # such tools look for statements
    from ._watch import changes, inspection  # noqa: F401  # such tools look for statements


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
