"""The holders of a region's lock and its waiters, as far as the kernel tells: see proclocks.py."""

import os
from weakref import ref

from .._lock.long_way import labels_of
from .._lock.ofd import Opener
from .._lock.slow_wait import SlowWait
from .._lock.table import LockTable
from .._memory import control, proclocks
from .._memory.control import CONTROL_SIZE, Mark
from .._memory.proclocks import Holder, Kind, Row
from .._memory.segment import Segment
from ..errors import RegionClosedError
from .insiders import describe, insiders, with_insiders

__all__ = ["Holder", "holders", "locked", "slow_wait"]


def holders(table: LockTable) -> tuple[Holder, ...]:
    """Return the lock's holders and its waiters: see `Region.holders`."""
    while True:
        opener = table.usable()
        try:
            seen = _look(opener)
        except OSError:
            if table.opener is opener:
                raise
            # The region was closed, or attached to another object, so this descriptor was closed.
        else:
            labels = labels_of(list(table.labelled.values()))
            ours = insiders(list(table.cohorts.values()), table.pool, labels)
            return with_insiders(seen, ours)


def locked(table: LockTable) -> Kind | None:
    """Return the kind of lock that is held now: see `Region.locked`."""
    kinds = {holder.kind for holder in holders(table) if not holder.waiting}
    return "write" if "write" in kinds else "read" if kinds else None


def slow_wait(table: LockTable, seconds: float | None) -> SlowWait | None:
    """Have waits for that table's lock reported that last longer than `seconds`; None: none."""
    if seconds is None:
        return None
    known = ref(table)  # its own ledger must not keep it alive
    return SlowWait(seconds, lambda: _describe(known()))


def _describe(table: LockTable | None) -> str:
    if table is None:
        return "unknown (the region is gone)"
    try:
        return describe(holders(table))
    except (OSError, RegionClosedError) as error:
        return f"unknown ({error})"


def _look(opener: Opener) -> tuple[Holder, ...]:
    before = _mark(opener)
    rows = _rows_of(opener.segment)
    mark = before if _mark(opener) == before else None  # one writer was active all the time
    return tuple(proclocks.holders_of(rows, mark))


def _mark(opener: Opener) -> Mark | None:
    """Return the active writer's mark in the control page; None: no writer, or no such page."""
    if opener.control is None:
        return None
    start = opener.mapping.size - CONTROL_SIZE
    # read through the descriptor, as touching a truncated mapping raises SIGBUS
    return control.mark(opener.segment.read(start, CONTROL_SIZE))


def _rows_of(segment: Segment) -> list[Row]:
    found = segment.lock_identity()
    if found is None:  # no process has ever locked it
        return []
    device, inode = found
    wanted = (os.major(device), os.minor(device), inode)
    return [row for row in proclocks.rows_of_host(segment.name) if row.object == wanted]
