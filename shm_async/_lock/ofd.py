"""One open file description (OFD) that takes flock(2): the base of cohorts and seats.

flock belongs to the OFD, not to a thread: two owners that shared one would not
exclude each other. So each event loop and each thread that holds a lock has an
OFD of its own. The kernel keeps all of them apart, as it does with other
processes and with programs that do not use this package.
"""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from .. import _native
from .._failures import lost, not_found, parted, replaced
from .._limits import no_thread, no_timer
from .._memory import leases
from .._memory.control import pid_namespace, process_identity
from .._memory.mapping import Mapping
from .._memory.names import FD_DIR, companion_path
from .._memory.ownership import no_way
from .._memory.segment import Segment
from .._native import (
    BUSY,
    DIED,
    FORKED,
    LOST,
    NO_SIGNAL_LEFT,
    NO_THREAD,
    NO_TIMER,
    PARTED,
    REPLACED,
    SHRUNK,
    UNLINKED,
    LockCloser,
    LockHandle,
)
from ..errors import RegionSizeError
from .call_sites import levels_to_the_user
from .deaths import owner_died
from .labels import LABEL, with_label
from .signals import SWITCHED_OFF, no_signal_left
from .statistics import Ledger

__all__ = [
    "BUSY",
    "FORKED",
    "LET_GO",
    "Ending",
    "LockCloser",
    "LockHandle",
    "Opener",
    "failure",
    "report_slow",
]

EXCLUSIVE = 2  # a value of lock_mode

#: A result of an upgrade: another process or thread reads, and the kernel has taken our lock away.
LET_GO = 1

#: Makes the exception for late callers from the region's name: `closed` or `replaced`.
Ending: TypeAlias = Callable[[str], Exception]

logger = logging.getLogger("shm_async")


#: A missing resource of a wait -> the errno, and the reason.
MISSING: dict[int, tuple[int, Callable[[], str]]] = {
    NO_SIGNAL_LEFT: (errno.ENOSYS, no_signal_left),
    NO_THREAD: (errno.ENOBUFS, no_thread),  # EAGAIN would be a BlockingIOError
    NO_TIMER: (errno.ENOBUFS, partial(no_timer, SWITCHED_OFF)),
}


class Opener:
    """The opener of locks on one region's object, with the views that their holders get."""

    __slots__ = (
        "ahead",
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
        self.gate = None if control is None else mapping.gate_hint()  # [0]: a waiter is there
        self.snapshot: _native.Snapshot | None = None  # None: there is no generation
        if control is not None:
            self.snapshot = _native.snapshot_of(
                control,
                segment.fd,
                segment.mark,
                self.lock_size,
                linked=linked,
                sysv=_id_of(segment),
            )
        self.ledger = ledger
        self.ignores_death = ignores_death  # of a writer: locks are granted all the same
        self.linked = linked  # no lock is granted on an object that has lost its name
        self.writable = view  # a writer gets a slice of it; a readonly region has no writers
        self.readable = view.toreadonly()
        self.ahead: list[tuple[LockHandle, LockCloser]] = []  # opened while it had the rights
        self.open_ahead()

    def open_ahead(self) -> None:
        """Open the OFD of the first lock, if this process may lose its rights before that.

        Root may become another user, or change its root directory. It costs nothing more, as the
        first lock would open it. A forked child calls it, too.
        """
        self.ahead.clear()
        if os.geteuid() == 0 and self.segment.has_descriptor():
            with suppress(OSError):
                self.ahead.append(self._open_now(to_look=False))

    def find_again(self) -> None:
        """Make snapshots use the segment's present descriptor.

        Raises:
            OSError: EBADFD, it cannot be opened any more.
        """
        if self.snapshot is not None:
            self.snapshot.fd = self.segment.fd

    def open(self, *, to_look: bool = False) -> tuple[LockHandle, LockCloser]:
        """Return a new OFD, and its closer. Dropping the closer closes it and releases its lock.

        An OFD that is opened `to_look` cannot write, so its end wakes no watcher.
        """
        if not to_look:
            with suppress(IndexError):
                return self._taken_ahead()
        try:
            return self._open_now(to_look=to_look)
        except (PermissionError, FileNotFoundError) as error:
            raise no_way(error, self.segment.fd, self.mapping.name) from None

    def _taken_ahead(self) -> tuple[LockHandle, LockCloser]:
        taken = self.ahead.pop()
        if os.geteuid() != 0:
            try:
                self._open_now(to_look=False)
            except OSError as error:
                logger.warning(
                    "region %r: only one thread, or event loop, of this process can lock it: %s",
                    self.mapping.name,
                    no_way(error, self.segment.fd, self.mapping.name).strerror,
                )
        return taken

    def _open_now(self, *, to_look: bool) -> tuple[LockHandle, LockCloser]:
        try:
            return self._open_at(f"{FD_DIR}/{self.segment.fd}", to_look)
        except FileNotFoundError:  # no /proc: the name leads to the same object, or ESTALE
            return self._open_at(self.segment.path(), to_look)

    def _open_at(self, path: str, to_look: bool) -> tuple[LockHandle, LockCloser]:
        return leases.patiently(lambda: self._open(path, to_look), self.mapping.name)

    def _open(self, path: str, to_look: bool) -> tuple[LockHandle, LockCloser]:
        if self.mapping.readonly or to_look:
            return self._open_for(path, writable=False)
        try:
            return self._open_for(path, writable=True)
        except PermissionError:  # created by us with a mode that forbids us to write
            return self._open_for(path, writable=False)

    def _open_for(self, path: str, *, writable: bool) -> tuple[LockHandle, LockCloser]:
        # read first: once the segment is closed this fails, before a lock is opened
        teller = -1 if self.mapping.readonly else self.segment.fd
        lock, closer = _native.lock_open(
            path,
            writable=writable,
            # st_dev, st_ino: a closed descriptor may be another object's by now
            identity=self.segment.identity,
            size=self.lock_size,
            address=self.mapping.address,
            control=self.control,
            owner=(*process_identity(), pid_namespace()),
            home=self.segment.path(),
            name=self.mapping.name,
        )
        lock.ignore = self.ignores_death
        lock.linked = self.linked
        lock.sysv = _id_of(self.segment)
        lock.cookie = self.segment.cookie()
        lock.teller = teller
        return lock, closer


def _id_of(segment: Segment) -> int:
    return -1 if segment.id is None else segment.id


def failure(code: int, name: str, lock: LockHandle = None) -> Exception:
    """Return the exception for a lock call that failed and cannot be tried again."""
    if code == DIED:
        return owner_died(name, lock.dead_pid, lock.dead_start, lock.dead_ns)
    if code == REPLACED:
        return replaced(name)
    if code == UNLINKED:
        return not_found(name, "it was unlinked: close it and open it again")
    if code == LOST:
        return lost(name)
    if code == PARTED:
        return parted(name, companion_path(name))
    if code == SHRUNK:
        return RegionSizeError(
            f"region {name!r} was truncated by another program: its memory is gone; "
            "close it, unlink it and create it again"
        )
    if code == FORKED:
        return RuntimeError(
            f"the lock of region {name!r} was taken before a fork, by the parent process: "
            "this process does not hold it; make another one by read_lock() or write_lock()"
        )
    if code in MISSING:
        number, why = MISSING[code]
        return OSError(number, f"cannot wait for the lock: {why()}", name)
    try:
        _native.check(code, "lock the region", name)
    except OSError as error:
        return error
    raise AssertionError(f"{code} is no failure")


def report_slow(handle: LockHandle, name: str) -> None:
    """Log the slow hold that has just ended, at the line that ended it."""
    kind = "write" if handle.ended == EXCLUSIVE else "read"
    logger.warning(
        "region %r: a %s was held for %.3f s, more than slow_hold allows",
        name,
        with_label(f"{kind} lock", LABEL.get()),
        handle.lasted / 1e9,
        stacklevel=levels_to_the_user(),
    )
