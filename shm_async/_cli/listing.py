"""`ls`: every region of this host, a line each."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from .._memory.proclocks import Holder
from .._watch import inspection
from .._watch.inspection import RegionInfo
from . import words
from .facts import print_json, region_json
from .table import Column, print_table

__all__ = ["COLUMNS", "SORTS", "STYLES", "ls", "row_of", "sort_key"]

COLUMNS = (
    Column("NAME"),
    Column("SIZE", 3, right=True),
    Column("ELEMENTS", 7),
    Column("LAYOUT", 9),
    Column("OWNER", 10),
    Column("MODE", 11),
    Column("ATTACHED", 6, right=True),
    Column("HOLDER", 2),
    Column("WAIT", 5, right=True),
    Column("WRITES", 4, right=True),
    Column("AGE", 8, right=True),
    Column("STATE", 1),
)

#: rich's styles of states that a person should see at once.
STYLES = {
    "damaged": "red",
    "owner died": "red",
    "unlinked but in use": "yellow",
    "writing": "green",
    "reading": "green",
    "nobody attached": "dim",
}

#: The fields of `--sort`; numbers are sorted with the largest first.
SORTS: dict[str, Callable[[RegionInfo], Any]] = {
    "name": lambda info: info.name,
    "size": lambda info: -info.size,
    "owner": lambda info: words.user(info.uid),
    "attached": lambda info: -_attached(info),
    "waiting": lambda info: -len(info.waiters),
    "writes": lambda info: -(info.writes or 0),
    "age": lambda info: float("inf") if info.written_ago is None else info.written_ago,
    "state": lambda info: (info.state or "", info.name),
}


def ls(options: Namespace) -> int:
    """List regions."""
    found = inspection.inspect(options.pattern)
    regions = [info for info in found if info.managed or not options.managed]
    regions.sort(key=sort_key(options.sort))
    if options.json:
        print_json([region_json(info) for info in regions])
    elif options.quiet:
        for info in regions:
            print(words.printable(info.name))
    else:
        styles = [STYLES.get(info.state or "", "") for info in regions]
        print_table(COLUMNS, [row_of(info) for info in regions], styles=styles)
    return 0


def sort_key(name: str) -> Callable[[RegionInfo], Any]:
    """Return the sort key of that field."""
    return SORTS[name]


def row_of(info: RegionInfo) -> list[str]:
    """Return a region's cells, in the order of COLUMNS."""
    return [
        info.name,
        words.size(info.size),
        words.elements(info.shape, info.dtype),
        info.layout or words.UNKNOWN,
        words.user(info.uid),
        words.mode(info.mode),
        attached(info),
        holder(info.holders),
        str(len(info.waiters)),
        writes(info),
        words.duration(info.written_ago),
        info.state or words.UNKNOWN,
    ]


def attached(info: RegionInfo) -> str:
    """Return how many processes have it; "+": there may be more that cannot be seen."""
    known = _attached(info)
    if info.key is not None or info.complete:
        return str(known)
    hidden = info.layout != "managed" or (info.attachments or 0) > len(info.processes)
    return f"{known}+" if hidden else str(known)


def _attached(info: RegionInfo) -> int:
    return info.attachments or 0 if info.key is not None else len(info.processes)


def writes(info: RegionInfo) -> str:
    """Return how often it was written."""
    if info.writes is None:
        return words.NOTHING if info.layout == "raw" else words.UNKNOWN
    return str(info.writes)


def holder(holders: tuple[Holder, ...]) -> str:
    """Return the first holder of the lock, and the number of the others."""
    if not holders:
        return words.NOTHING
    first = holders[0]
    parts = [words.amount(first.pid), first.command or words.UNKNOWN, first.kind or words.UNKNOWN]
    if first.since is not None:
        parts.append(words.duration(first.since))
    if len(holders) > 1:
        parts.append(f"+{len(holders) - 1}")
    return " ".join(parts)
