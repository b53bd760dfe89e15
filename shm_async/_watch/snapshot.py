"""Snapshots: a copy of a region as it was at one moment, mostly without a lock.

The generation is odd while a process writes, and has a new value afterwards. If it is the same
even number before and after a copy, no process wrote meanwhile (a seqlock). A disturbed copy is
thrown away. After a few of them the caller takes the read lock.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from .._lock.ofd import failure
from .._lock.table import LockTable
from .._native import BUSY, LOST, REPLACED, Snapshot, snapshot_after, snapshot_before
from ..errors import RegionReplacedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DISTURBED", "copier", "copy_undisturbed"]

#: Attempts before the caller takes the read lock. It is better to wait for a writer that is
#: active for longer than so many looks take.
TRIES = 4

#: Makes a copy; returns it, or None if it went into the caller's buffer.
Copier = Callable[[], "bytes | None"]

#: The result if every attempt at a copy was disturbed by a writer.
DISTURBED = cast("bytes", object())


def copy_undisturbed(table: LockTable, glance: Snapshot | None, copy: Copier) -> bytes | None:
    """Copy without a lock. Return the result of `copy`, or DISTURBED."""
    for _ in range(0 if glance is None else TRIES):
        before = snapshot_before(glance)
        if before >= 0:
            data = copy()
            if snapshot_after(glance) == before:
                return data
        elif before == REPLACED:
            table.follow(cast("RegionReplacedError", failure(before, table.name)))
            break  # a copy would be of the old data
        elif before == LOST:
            table.usable().find_again()
        elif before != BUSY:
            table.usable()  # closed meanwhile, and its descriptor with it
            raise failure(before, table.name)
    return DISTURBED


def copier(into: "Buffer | None", data: memoryview) -> Copier:
    """Return the function that copies the data, into the buffer `into` if there is one."""
    if into is None:
        return data.tobytes
    target = memoryview(into)
    if target.readonly:
        raise TypeError("into must be writable: a bytearray, for example")
    if not target.c_contiguous:
        raise ValueError("into must be contiguous")
    if target.nbytes != data.nbytes:
        raise ValueError(f"into must have {data.nbytes} bytes, not {target.nbytes}")
    return partial(_fill, target.cast("B"), data.cast("B"))


def _fill(target: memoryview, data: memoryview) -> None:
    target[:] = data
