"""Who holds a region's lock and who waits for it, as far as the kernel tells: /proc/locks.

The kernel lists every flock(2) with the object's device and inode, and the process that took
it, whatever program that is. It knows no times: the moment when a writer of ours began stands
in the control page, and is believed only if everything else there fits.
"""

import errno
import os
import time
from dataclasses import dataclass
from functools import partial
from mmap import PAGESIZE
from typing import Literal, TypeAlias

from . import control
from .control import CONTROL_SIZE, Mark, start_of
from .filelock import Opener
from .locks import Locks
from .segment import Segment

__all__ = ["Holder", "Holders"]

LOCKS = "/proc/locks"
BLOCK = 1 << 16  # bytes; the kernel gives a page at a time, or one lock and all who wait for it
TRIES = 20
GATE_BYTE = 1 << 62  # as in gate.c

Kind: TypeAlias = Literal["read", "write"]

KINDS: dict[str, Kind] = {"READ": "read", "WRITE": "write"}


@dataclass(frozen=True, slots=True)
class Holder:
    """One who holds the lock, or waits for it.

    Each event loop and each thread counts as one, as each asks the kernel by itself; the
    tasks of one event loop count as one together.
    """

    pid: int | None  #: the process; None where the kernel does not tell
    command: str | None  #: what it is called (/proc/PID/comm, 15 bytes);
    #: any process may call itself anything. None: not known, or gone
    kind: Kind | None  #: of the lock; None: it queues at the gate, and nobody knows what for
    waiting: bool  #: it does not have the lock yet
    since: float | None  #: seconds for which it has written; None where nobody knows


@dataclass(frozen=True, slots=True)
class Row:
    """A lock in the kernel's list."""

    flock: bool  # else it is one of a range of bytes, such as the gate
    kind: Kind
    waiting: bool
    pid: int | None
    object: tuple[int, int, int]  # major and minor number of the device, inode
    start: int  # of the range


class Holders(Locks):
    """What a Region is to those who ask who has its lock."""

    __slots__ = ()

    def holders(self) -> tuple[Holder, ...]:
        """Who holds the lock and who waits for it, those who hold it first.

        Programs that know flock(2) alone are listed, too. Takes no lock, so it works with
        ``readonly=True`` and never waits for the lock. It shows one moment, unless the kernel's
        list is longer than a page (60 locks on the host) and changes meanwhile. A look takes
        some 20 µs and stops all file locking of the host for that long, the first one for
        milliseconds: for people and alarms, not for loops. In a forked child it is the same.

        The kernel leaves out processes that this pid namespace cannot see: in a container ()
        does not mean that nobody outside has the lock. Those who queue at the gate, behind
        whoever waits in front, are nameless. `since` is known for writers of this package in
        managed regions, and what they wrote there can be falsified by whoever may write. Where
        another process has resized the region it is about the old one until the next lock.

        Raises:
            RegionClosedError. OSError: ENOSYS, there is no /proc/locks to read.
        """
        while True:
            opener = self._usable()
            try:
                return _look(opener)
            except OSError:
                if self._opener is opener:
                    raise
                # closed meanwhile, or gone over to another object: its descriptor was, too


def _look(opener: Opener) -> tuple[Holder, ...]:
    before = _mark(opener)
    rows = _rows_of(opener.segment)
    mark = before if _mark(opener) == before else None  # one writer was inside all the time
    return tuple(_holders(rows, mark))


def _mark(opener: Opener) -> Mark | None:
    """What the writer who is inside has left in the control page, if there are both."""
    if opener.control is None:
        return None
    start = opener.mapping.size - CONTROL_SIZE
    # read, not looked at: what was truncated is no SIGBUS then
    return control.mark(opener.segment.read(start, CONTROL_SIZE))


def _rows_of(segment: Segment) -> list[Row]:
    found = segment.lock_identity()
    if found is None:  # nobody has ever locked it
        return []
    device, inode = found
    wanted = (os.major(device), os.minor(device), inode)
    return [row for row in _rows(segment.name) if row.object == wanted]


def _holders(rows: list[Row], mark: Mark | None) -> list[Holder]:
    holding = [_holder(row, mark) for row in rows if row.flock and not row.waiting]
    waiting = [_holder(row, None) for row in rows if row.flock and row.waiting]
    queued = [_queued(row) for row in rows if _queues(row)]
    return holding + waiting + queued


def _holder(row: Row, mark: Mark | None) -> Holder:
    command = None if row.pid is None else _command(row.pid)
    return Holder(row.pid, command, row.kind, row.waiting, _since(row, mark))


def _since(row: Row, mark: Mark | None) -> float | None:
    if mark is None or row.kind != "write" or row.pid != mark.pid:
        return None
    if mark.start and mark.start != start_of(mark.pid):  # another pid namespace's, or a lie
        return None
    nanoseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - mark.since
    return nanoseconds / 1e9 if nanoseconds >= 0 else None


def _queues(row: Row) -> bool:
    return not row.flock and row.waiting and row.start == GATE_BYTE


def _queued(row: Row) -> Holder:
    """Who shares the gate cannot write; who wants it alone may want anything."""
    return Holder(None, None, "read" if row.kind == "read" else None, True, None)


def _command(pid: int) -> str | None:
    """Not its command line: to read that can hang on a process that means ill."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="backslashreplace").removesuffix("\n")
    except OSError:  # it has ended
        return None


def _rows(name: str) -> list[Row]:
    try:
        lines = _kernels_list().splitlines()
    except OSError as error:
        raise OSError(
            errno.ENOSYS, f"cannot see who has the lock: no {LOCKS} ({error.strerror})", name
        ) from error
    found = [_row(line.split()) for line in lines]
    return [row for row in found if row is not None]


def _kernels_list() -> str:
    """What the kernel says, of one moment if that fits in a page.

    It lets locks come and go between two reads, and then goes on by the row's number: some
    rows come twice, others not at all. The read that finds the end is one of them.
    """
    with open(LOCKS, "rb", buffering=0) as file:
        for _ in range(TRIES):
            pieces = list(iter(partial(file.read, BLOCK), b""))
            if len(pieces) <= 1 or sum(map(len, pieces)) > PAGESIZE:
                break
            file.seek(0)
    return b"".join(pieces).decode()


def _row(words: list[str]) -> Row | None:
    """Read ``1: -> FLOCK ADVISORY WRITE 4711 00:1b:42 0 EOF``; None: a lock of another sort."""
    waiting = words[1:2] == ["->"]
    try:
        sort, _, kind, pid, place, start = words[2 if waiting else 1 :][:6]
        major, minor, inode = place.split(":")
        if sort not in ("FLOCK", "OFDLCK"):
            return None
        return Row(
            flock=sort == "FLOCK",
            kind=KINDS[kind],
            waiting=waiting,
            pid=int(pid) if int(pid) > 0 else None,
            object=(int(major, 16), int(minor, 16), int(inode)),
            start=int(start),
        )
    except (ValueError, KeyError):  # a lease, or one of an object that is gone: <none>:0
        return None
