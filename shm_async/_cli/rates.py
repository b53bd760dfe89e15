"""The rates of writes between two looks at the host."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._watch import inspection
from .._watch.inspection import RegionInfo
from . import words
from .facts import region_json
from .listing import attached, holder, writes
from .table import Column

__all__ = ["COLUMNS", "ORDERS", "Rated", "Rater", "row_of"]

COLUMNS = (
    Column("NAME"),
    Column("WRITES/S", 2, right=True),
    Column("HOLDER", 3),
    Column("WAIT", 4, right=True),
    Column("ATTACHED", 5, right=True),
    Column("SIZE", 6, right=True),
    Column("WRITES", 7, right=True),
    Column("STATE", 1),
)


@dataclass(frozen=True, slots=True)
class Rated:
    """A region and how often it is written."""

    info: RegionInfo
    rate: float | None  # writes a second; None: not known, or not yet

    def as_json(self) -> dict[str, Any]:
        """Return the object of `ls --json`, with one more key."""
        return {**region_json(self.info), "writes_per_second": self.rate}


#: How `top` can sort: numbers the largest first.
ORDERS: dict[str, Callable[[Rated], Any]] = {
    "writes/s": lambda each: (-(each.rate or 0), each.info.name),
    "waiting": lambda each: (-len(each.info.waiters), each.info.name),
    "attached": lambda each: (-len(each.info.processes), each.info.name),
    "size": lambda each: (-each.info.size, each.info.name),
    "writes": lambda each: (-(each.info.writes or 0), each.info.name),
    "name": lambda each: each.info.name,
}


class Rater:
    """A repeated look at the regions, which compares each look with the one before."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.moment = 0.0
        self.before: dict[tuple[str, int | None, bool], int] = {}  # writes, by name, id and link

    def look(self) -> list[Rated]:
        """Return the regions now, with their rates since the last look."""
        found = inspection.inspect(self.pattern)
        now = time.monotonic()
        passed, self.moment = now - self.moment, now
        before = self.before
        counts = {_identity(info): info.writes for info in found}
        self.before = {key: count for key, count in counts.items() if count is not None}
        return [Rated(info, _rate(info, before.get(_identity(info)), passed)) for info in found]


def _identity(info: RegionInfo) -> tuple[str, int | None, bool]:
    return info.name, info.id, info.linked


def _rate(info: RegionInfo, before: int | None, seconds: float) -> float | None:
    if before is None or info.writes is None or info.writes < before or seconds <= 0:
        return None
    return (info.writes - before) / seconds


def row_of(each: Rated) -> list[str]:
    """Return a region's cells, in the order of COLUMNS."""
    info = each.info
    rate = words.NOTHING if each.rate is None else f"{each.rate:.{0 if each.rate >= 10 else 1}f}"
    return [
        info.name,
        rate,
        holder(info.holders),
        str(len(info.waiters)),
        attached(info),
        words.size(info.size),
        writes(info),
        info.state or words.UNKNOWN,
    ]
