"""One open file description (OFD) that takes flock(2): what both lock engines stand on.

flock belongs to the OFD, not to a thread: two owners that shared one would not
exclude each other. So each event loop and each thread that holds a lock has an
OFD of its own, and the kernel keeps all of them apart, as it does with other
processes and with programs that know nothing of this package.
"""

import errno
import logging
import sys
from collections.abc import Callable
from typing import TypeAlias

from . import _native
from ._native import BUSY, DIED, FORKED, REPLACED, SHRUNK, UNLINKED, LockCloser, LockHandle
from .control import process_identity, start_of
from .errors import OwnerDiedError, RegionClosedError, RegionReplacedError, RegionSizeError
from .mapping import Mapping
from .segment import FD_DIR, Segment, not_found
from .signals import no_signal_left
from .statistics import Ledger

__all__ = [
    "BUSY",
    "FORKED",
    "Ending",
    "LockCloser",
    "LockHandle",
    "Opener",
    "closed",
    "failure",
    "replaced",
    "report_slow",
]

EXCLUSIVE = 2  # LOCK_EX

#: Makes the exception for who comes too late, of the region's name: `closed` or `replaced`.
Ending: TypeAlias = Callable[[str], Exception]

logger = logging.getLogger(__package__)


class Opener:
    """Opens locks on one region's object, and has the views that their holders get."""

    __slots__ = (
        "control",
        "gate",
        "ignores_death",
        "ledger",
        "linked",
        "lock_size",
        "mapping",
        "readable",
        "segment",
        "snapshot",
        "writable",
    )

    def __init__(
        self,
        segment: Segment,
        mapping: Mapping,
        control: _native.Control | None,
        view: memoryview,
        ledger: Ledger,
        *,
        ignores_death: bool,
        linked: bool,
    ) -> None:
        self.segment = segment
        self.lock_size = segment.lock_size(mapping.size)  # of the object that is locked, bytes
        self.mapping = mapping
        self.control = control
        self.gate = None if control is None else mapping.gate_hint()  # [0]: somebody is there
        self.snapshot: _native.Snapshot | None = None  # None: no generation to go by
        if control is not None:
            self.snapshot = _native.snapshot_of(
                control, segment.fd, self.lock_size, linked=linked, sysv=_id_of(segment)
            )
        self.ledger = ledger
        self.ignores_death = ignores_death  # of a writer: locks are granted all the same
        self.linked = linked  # locks are not granted on what has no name any more
        self.writable = view  # what a writer gets a slice of; a readonly region has no writers
        self.readable = view.toreadonly()

    def open(self, *, to_look: bool = False) -> tuple[LockHandle, LockCloser]:
        """A new OFD, and what closes it, and so releases its lock, when it is dropped.

        One that is opened `to_look` cannot write, so watchers hear nothing of its end.
        """
        try:
            return self._open(f"{FD_DIR}/{self.segment.fd}", to_look)
        except FileNotFoundError:  # no /proc: the name leads to the same object, or ESTALE
            return self._open(self.segment.path(), to_look)

    def _open(self, path: str, to_look: bool) -> tuple[LockHandle, LockCloser]:
        if self.mapping.readonly or to_look:
            return self._open_for(path, writable=False)
        try:
            return self._open_for(path, writable=True)
        except PermissionError:  # created by us with a mode that forbids us to write
            return self._open_for(path, writable=False)

    def _open_for(self, path: str, *, writable: bool) -> tuple[LockHandle, LockCloser]:
        lock, closer = _native.lock_open(
            path,
            writable=writable,
            # st_dev, st_ino: a closed descriptor may be another object's by now
            identity=self.segment.identity,
            size=self.lock_size,
            address=self.mapping.address,
            control=self.control,
            owner=process_identity(),
            name=self.mapping.name,
        )
        lock.ignore = self.ignores_death
        lock.linked = self.linked
        lock.sysv = _id_of(self.segment)
        return lock, closer


def _id_of(segment: Segment) -> int:
    return -1 if segment.id is None else segment.id


def failure(code: int, name: str, lock: LockHandle = None) -> Exception:
    """The exception for a lock call that failed and cannot be tried again."""
    if code == DIED:
        return _owner_died(name, lock.dead_pid, lock.dead_start)
    if code == REPLACED:
        return replaced(name)
    if code == UNLINKED:
        return not_found(name, "it was unlinked: close it and open it again")
    if code == SHRUNK:
        return RegionSizeError(
            f"region {name!r} was truncated by somebody: its memory is gone; "
            "close it, unlink it and create it again"
        )
    if code == FORKED:
        return RuntimeError(
            f"the lock of region {name!r} was taken before a fork, by the parent process: "
            "this process does not hold it; ask the region for another"
        )
    try:
        _native.check(code, "lock the region", name)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            error.strerror = no_signal_left()
        return error
    raise AssertionError(f"{code} is no failure")


def _owner_died(name: str, pid: int, start: int) -> OwnerDiedError:
    now = start_of(pid)
    if now is None or not start:
        fate = "died inside"
    elif now == start:
        fate = "is alive, but its event loop ended inside"
    else:
        fate = "died inside (a later process has its pid now)"
    error = OwnerDiedError(
        f"region {name!r} may be half-written: process {pid} {fate}; take "
        "write_lock(recover=True), put the data right, and leave the block without an exception"
    )
    error.pid, error.start = pid, start
    return error


def closed(name: str) -> RegionClosedError:
    """The exception for use after close."""
    return RegionClosedError(f"region {name!r} is closed: open it again")


def replaced(name: str) -> RegionReplacedError:
    """The exception for use of a region that another one has replaced."""
    return RegionReplacedError(
        errno.ESTALE,
        "it was resized, so another one has its name: attach again, or open it with follow=True",
        name,
    )


def report_slow(handle: LockHandle, name: str) -> None:
    """Log that the hold that has just ended was a slow one, at the line that ended it."""
    kind = "write" if handle.ended == EXCLUSIVE else "read"
    logger.warning(
        "region %r: a %s lock was held for %.3f s, more than slow_hold allows",
        name,
        kind,
        handle.lasted / 1e9,
        stacklevel=_levels_to_the_user(),
    )


def _levels_to_the_user() -> int:
    """How many frames up logging has to look for the first that is not of this package."""
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame, levels = frame.f_back, levels + 1
    return levels
