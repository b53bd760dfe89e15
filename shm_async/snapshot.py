"""Snapshots: a copy of a region as it was at one moment, mostly without a lock.

The generation is odd while somebody writes, and another one afterwards. So a copy between
two looks at it that find the same even number was made while nobody wrote (a seqlock).
A copy that was disturbed is thrown away; after a few of them the read lock is taken.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast, overload

from ._native import BUSY, REPLACED, Snapshot, snapshot_after, snapshot_before
from .errors import RegionReplacedError
from .filelock import closed, failure
from .locks import Locks

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Snapshots"]

#: Copies that are begun before the read lock is taken. A writer that is inside for longer
#: than it takes to look that often is better waited for.
TRIES = 4

#: Makes a copy; returns it, or None where it went into the caller's buffer.
Copier = Callable[[], "bytes | None"]

#: Stands for a copy that was not made while nobody wrote.
DISTURBED = cast("bytes", object())


class Snapshots(Locks):
    """What a Region is to those who only want to know what is in it."""

    __slots__ = ()

    @overload
    def snapshot(self, *, into: None = None, timeout: float | None = None) -> bytes: ...
    @overload
    def snapshot(self, *, into: "Buffer", timeout: float | None = None) -> None: ...
    def snapshot(
        self, *, into: "Buffer | None" = None, timeout: float | None = None
    ) -> bytes | None:
        """Copy the data as it is at one moment.

        Takes no lock while nobody writes: it costs two looks at the generation and a memcpy
        (0.4 µs for 64 bytes, 1.0 µs for 64 KiB), and writers do not notice. Once it returns
        the data may be another: who must know that it is not needs the read lock. A raw
        region has no generation, so there it always takes the read lock.

        Blocks the thread in the read lock when a writer is inside for longer, or writers
        never pause. In an event loop use `snapshot_async`. Works in a forked child.

        Sees writers that use this package. A program that takes flock alone and then writes,
        or somebody who writes through `buffer`, leaves no mark: take the read lock
        against the former. Python's other threads wait while it copies, as for ``bytes(view)``.

        Args:
            into: a contiguous writable buffer of exactly `nbytes` bytes to copy into; what it
                holds after an exception is undefined. None: make a new bytes object.
            timeout: seconds after which a wait for the read lock ends (LockTimeoutError).

        Returns:
            The bytes, or None if they are in `into`.

        Raises:
            OwnerDiedError: the last writer died inside; see `on_owner_death`.
            RegionReplacedError: it was resized; not with ``follow=True``.
            RegionNotFoundError: it was unlinked, with ``if_unlinked="raise"``.
            RegionClosedError. RegionSizeError: the object was truncated.
            ValueError, TypeError: `into` does not fit.
        """
        opener = self._opener
        if opener is None:
            raise closed(self._name)
        copy = _copier(into, opener.readable)
        glance = opener.snapshot
        if glance is not None:  # what happens most, spelled out
            before = snapshot_before(glance)
            if before >= 0:
                data = copy()
                if snapshot_after(glance) == before:
                    return data
        data = self._copy_undisturbed(glance, copy)
        if data is DISTURBED:
            with self.read_lock(timeout=timeout) as view:
                return _copier(into, view)()
        return data

    @overload
    async def snapshot_async(self, *, into: None = None) -> bytes: ...
    @overload
    async def snapshot_async(self, *, into: "Buffer") -> None: ...
    async def snapshot_async(self, *, into: "Buffer | None" = None) -> bytes | None:
        """Do what `snapshot` does, and wait for the read lock, if it takes that, in the loop.

        Cancellable; does not yield where it takes no lock. Not the plain name, as for
        the lock: mostly there is nothing to await. The copy itself blocks the loop for a memcpy.
        """
        opener = self._usable()
        copy = _copier(into, opener.readable)
        data = self._copy_undisturbed(opener.snapshot, copy)
        if data is DISTURBED:
            async with self.read_lock() as view:
                return _copier(into, view)()
        return data

    def _copy_undisturbed(self, glance: Snapshot | None, copy: Copier) -> bytes | None:
        """Copy under no lock. Returns what `copy` returns, or DISTURBED."""
        for _ in range(0 if glance is None else TRIES):
            before = snapshot_before(glance)
            if before >= 0:
                data = copy()
                if snapshot_after(glance) == before:
                    return data
            elif before == REPLACED:
                self._follow(cast("RegionReplacedError", failure(before, self._name)))
                break  # the copy would be one of the old data
            elif before != BUSY:
                self._usable()  # closed meanwhile, and its descriptor with it
                raise failure(before, self._name)
        return DISTURBED


def _copier(into: "Buffer | None", data: memoryview) -> Copier:
    """What copies the data, into that buffer if there is one."""
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
