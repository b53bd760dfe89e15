"""The kernel's list of locks, /proc/locks: the holders of a lock, and its waiters.

The kernel lists every flock(2) with the object's device and inode, and the process that took
it, of any program. It lists no times. A writer of this package notes in the control page when
it began; that time is used only if the rest of its mark fits the kernel's list.
"""

import errno
import os
import time
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from mmap import PAGESIZE
from typing import Literal, NamedTuple, TypeAlias

from .._native import GATE_BYTE
from .control import Mark, pid_namespace, start_of

__all__ = ["Holder", "Kind", "Row", "command_of", "holders_of", "rows_of_host"]

LOCKS = "/proc/locks"
BLOCK = 1 << 16  # bytes; the kernel gives a page at a time, or one lock with all its waiters
OVERLAP = PAGESIZE // 2
REPEATED = 12  # lines by which a piece is joined: more than may look alike
TRIES = 10

Kind: TypeAlias = Literal["read", "write"]

#: The kernel's names for a lock of a file: flock(2), a lock of some bytes by an open file
#: description, the same by a process, and a lease.
Sort: TypeAlias = Literal["FLOCK", "OFDLCK", "POSIX", "LEASE"]

SORTS: dict[str, Sort] = {"FLOCK": "FLOCK", "OFDLCK": "OFDLCK", "POSIX": "POSIX", "LEASE": "LEASE"}

KINDS: dict[str, Kind] = {"READ": "read", "WRITE": "write"}


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds the lock, or waits for it.

    There is one for each event loop and each thread, as each makes its own request to the
    kernel. The tasks of one event loop that hold the lock count as one Holder. So do its waiting
    tasks in another process; in this process there is one for each waiting task.
    """

    __module__ = "shm_async"

    pid: int | None  #: the process; None if the kernel does not tell
    command: str | None  #: its name (/proc/PID/comm, 15 bytes);
    #: any process can choose its own name. None if not known, or gone
    kind: Kind | None  #: of the lock; None if it queues at the gate, for an unknown kind
    waiting: bool  #: it does not have the lock yet
    since: float | None  #: seconds for which it has written; None if not known
    where: str | None = field(default=None, compare=False)  #: the line of its task or thread,
    #: in this process, at this moment; None if not known
    label: str | None = field(default=None, compare=False)  #: of the lock, in this process


@dataclass(frozen=True, slots=True)
class Row:
    """A lock in the kernel's list."""

    sort: Sort
    kind: Kind
    waiting: bool
    pid: int | None
    object: tuple[int, int, int]  # major and minor number of the device, inode
    start: int  # of the range of bytes
    end: int | None  # its last byte; None: it goes to the end of the file

    @property
    def flock(self) -> bool:
        """Whether it locks the whole object; else it may lock a byte, such as the gate."""
        return self.sort == "FLOCK"


def holders_of(rows: list[Row], mark: Mark | None) -> list[Holder]:
    """Return the holders of the lock of one object, and after them its waiters.

    Args:
        rows: the rows of that object.
        mark: the active writer's mark, if one writer was active all the time `rows` were read.
    """
    holding = [_holder(row, mark) for row in rows if row.flock and not row.waiting]
    waiting = [_holder(row, None) for row in rows if row.flock and row.waiting]
    queued = [_queued(row) for row in rows if _queues(row)]
    return holding + waiting + queued


def _holder(row: Row, mark: Mark | None) -> Holder:
    command = None if row.pid is None else command_of(row.pid)
    return Holder(row.pid, command, row.kind, row.waiting, _since(row, mark))


def _since(row: Row, mark: Mark | None) -> float | None:
    if mark is None or row.kind != "write" or not _is_of(row, mark):
        return None
    nanoseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - mark.since
    return nanoseconds / 1e9 if nanoseconds >= 0 else None


def _is_of(row: Row, mark: Mark) -> bool:
    """Tell whether it can be the lock of the writer that left that mark, which may be false."""
    if row.pid is None:
        return False
    if mark.namespace not in (0, pid_namespace()):  # it has another pid there
        return mark.start == start_of(row.pid)
    return row.pid == mark.pid and mark.start in (0, start_of(mark.pid))


def _queues(row: Row) -> bool:
    # a stay at the gate locks a range that ends with that byte: see lock_bytes.h
    return row.sort == "OFDLCK" and row.waiting and row.end == GATE_BYTE


def _queued(row: Row) -> Holder:
    """Return a waiter at the gate: a shared request is a reader's, an exclusive one may be any."""
    return Holder(None, None, "read" if row.kind == "read" else None, True, None)


def command_of(pid: int) -> str | None:
    """Return the name of a process; None: it has ended.

    This is not its command line: a malicious process can make reading that hang.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="backslashreplace").removesuffix("\n")
    except OSError:  # it has ended
        return None


def rows_of_host(name: str) -> list[Row]:
    """Return all locks that the kernel lists.

    Raises:
        OSError: ENOSYS, there is no /proc/locks; `name` is the region for the message.
    """
    try:
        with open(LOCKS, "rb", buffering=0) as file:
            lines = _kernels_list(file)
    except OSError as error:
        raise OSError(
            errno.ENOSYS, f"cannot list the lock's holders: no {LOCKS} ({error.strerror})", name
        ) from error
    found = [_row(line.text.split()) for line in lines]
    return [row for row in found if row is not None]


class Line(NamedTuple):
    """``1: FLOCK ...``: the number is the lock's place in the list at the moment of the read."""

    number: int
    text: str


def _kernels_list(file: FileIO) -> list[Line]:
    """Return the kernel's list. Whoever has a lock all the time is in it, if one of TRIES works.

    The kernel gives what fits in a page, as of one moment, and continues at a lock's number. If
    locks appear and end between two reads, some come twice, and others not at all. So a list
    that fills more than half a page is read in pieces that overlap.
    """
    for _ in range(TRIES):
        file.seek(0)
        piece = file.read(BLOCK)
        if len(piece) <= PAGESIZE // 2 and not file.read(BLOCK):
            return _lines(piece)
        whole = _joined(file.fileno())
        if whole is not None:
            return whole
    file.seek(0)  # too many changes: some may be missing
    return _lines(b"".join(iter(partial(file.read, BLOCK), b"")))


def _joined(descriptor: int) -> list[Line] | None:
    """Return the list, each piece joined where it repeats the last lines of the one before.

    None: they are not there any more.
    """
    lines: list[Line] = []
    end = 0
    while True:
        start = max(0, end - OVERLAP)
        piece = os.pread(descriptor, BLOCK, start)
        found = _lines(piece if start == 0 else piece.partition(b"\n")[2])
        new = _after(lines[-REPEATED:], found) if lines else found
        if not new:
            return None if new is None else lines
        lines += new
        end = start + len(piece)


def _after(last: list[Line], found: list[Line]) -> list[Line] | None:
    """Return what comes in `found` after those lines: if they are there twice, where they were."""
    texts = [line.text for line in last]
    many = len(last)
    places = [
        place
        for place in range(len(found) - many + 1)
        if [line.text for line in found[place : place + many]] == texts
    ]
    if not places:
        return None
    return found[min(places, key=lambda place: abs(found[place].number - last[0].number)) + many :]


def _lines(piece: bytes) -> list[Line]:
    parts = [line.partition(": ") for line in piece.decode().splitlines()]
    return [Line(int(number), text) for number, _, text in parts if number.isdigit()]


def _row(words: list[str]) -> Row | None:
    """Parse ``-> FLOCK ADVISORY WRITE 4711 00:1b:42 0 EOF``; None: a lock of another sort."""
    waiting = words[:1] == ["->"]
    try:
        sort, _, kind, pid, place, start, end = words[waiting:][:7]
        major, minor, inode = place.split(":")
        return Row(
            sort=SORTS[sort],
            kind=KINDS[kind],
            waiting=waiting,
            pid=int(pid) if int(pid) > 0 else None,
            object=(int(major, 16), int(minor, 16), int(inode)),
            start=int(start),
            end=None if end == "EOF" else int(end),
        )
    except (
        ValueError,
        KeyError,
    ):  # an unknown sort, or a lock of an object that is gone: <none>:0
        return None
