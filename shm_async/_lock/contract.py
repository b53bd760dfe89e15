"""The contracts between the parts of the lock: a place, a lock table, and a way to wait.

A hold has a place while it has the lock: the cohort of an event loop, or the seat of a
thread. It gets places from its lock table.
"""

from collections.abc import Awaitable
from typing import Any, ClassVar, Protocol, TypeAlias
from weakref import ref

from .._native import LockHandle
from ..errors import OwnerDiedError, RegionReplacedError
from .cohort import Cohort
from .loops import Task
from .ofd import Opener
from .seat import Pool, Seat
from .statistics import Ledger

__all__ = ["Attempt", "Namesakes", "Place", "Refusal", "Table", "Way"]

#: An error of a lock that can be acquired again once its cause has been repaired.
Refusal: TypeAlias = OwnerDiedError | RegionReplacedError


class Place(Protocol):
    """The place of a hold: a cohort or a seat.

    `task` is the key under which a cohort counts a reader; a seat has one holder and ignores it.
    """

    @property
    def handle(self) -> LockHandle: ...
    @property
    def readable(self) -> memoryview:
        """The data that the lock guards; a holder gets a slice of it."""
        ...

    @property
    def writable(self) -> memoryview: ...

    #: True: only the thread of an event loop may use it. False: any thread may, so the right to
    #: release or convert is a token, which one of them gets.
    in_loop: ClassVar[bool]

    #: The key of the task that writes; None if there is none, or on a seat.
    @property
    def writer(self) -> Task: ...

    def try_enter(self, exclusive: bool, task: Task, manner: int, *, spin: bool = False) -> int:
        """Take the lock if that needs no waiting. Return 0, BUSY, FORKED or another -errno.

        With `spin` a lock that is busy is tried again for up to 50 µs: see spin.c.
        """
        ...

    def is_foreign(self) -> bool:
        """Tell whether the caller may not use it, as it belongs to another thread's loop."""
        ...

    def leave(self, task: Task) -> None:
        """Release the lock."""
        ...

    def inside(self, task: Task) -> int:
        """Return the number of locks that the task has here."""
        ...

    def give_up(self, task: Task, before: int) -> None:
        """End an attempt to acquire or convert: hold nothing.

        `before` is the number of the task's locks that stay, as at the beginning of the attempt.
        """
        ...

    def try_upgrade(self, task: Task) -> int:
        """Turn a reader into the writer if that needs no waiting.

        Return 0; BUSY: it still reads, and so do others here; LET_GO: it reads no more;
        or another -errno: it still reads.
        """
        ...

    def downgrade(self) -> int:
        """Turn the writer into a reader. Return 0 or -errno."""
        ...


class Table(Protocol):
    """The part of a lock table that its holds use."""

    name: str
    opener: Opener | None  # None once closed
    cohort: Cohort  # of the loop that was the last to use the table
    cohorts: dict[object, Cohort]  # by event loop
    pool: Pool
    labelled: dict[int, "ref[Any]"]  # holds with a label that have the lock, by id
    ledger: Ledger
    namesakes: "Namesakes"
    spare_write: Any  # a WriteHold to hand out again

    def usable(self) -> Opener: ...
    def check_writable(self) -> None: ...
    def disown(self, hold: object) -> None: ...
    def join_cohort(self) -> tuple[Cohort, Task]: ...
    def take_seat(self) -> Seat: ...
    def renew(self) -> None: ...
    def forget_finished_loops(self) -> None: ...
    def mend(self, error: Refusal, repairs: int, way: "Way") -> Awaitable[bool]: ...


class Namesakes:
    """The lock tables of this process whose objects have one path, for as long as they live.

    Most of them lock the same object. One that was replaced, and is not followed, is another.
    """

    __slots__ = ("__weakref__", "references")

    def __init__(self) -> None:
        self.references: set[ref[Table]] = set()  # to live tables alone

    def add(self, table: Table) -> None:
        self.references.add(ref(table, self.references.discard))

    def alone(self) -> bool:
        return len(self.references) == 1

    def tables(self) -> list[Table]:
        found = [reference() for reference in self.references.copy()]
        return [table for table in found if table is not None]


class Attempt:
    """One attempt to acquire or to upgrade: the request, and its progress."""

    __slots__ = (
        "before",
        "beside",
        "exclusive",
        "hold",
        "manner",
        "place",
        "table",
        "task",
    )

    def __init__(self, hold: object, table: Table, exclusive: bool, manner: int) -> None:
        self.hold = hold  # for messages
        self.table = table
        self.exclusive = exclusive
        self.manner = manner  # of a writer's beginning, see locking.h
        self.place: Place | None = None
        self.task: Task = None  # the key under which a cohort counts the reader
        self.before = 0  # the number of other locks that the task has in the place
        self.beside = False  # a task reads on a seat, past its cohort's queue: see owners.py

    def where(self) -> Place:
        """Return the place, for a caller that knows that there is one."""
        assert self.place is not None
        return self.place

    def holds(self) -> bool:
        """Tell whether the place has the lock: in the requested mode, or before an upgrade to read.

        The place counts, as an exception (Ctrl-C) may come right after a grant, before any note.
        """
        return self.place is not None and self.place.inside(self.task) > self.before

    def undo(self) -> None:
        """End the attempt, and hold nothing."""
        place, self.place = self.place, None
        self.beside = False
        if place is not None:
            place.give_up(self.task, self.before)


class Way(Protocol):
    """The way in which a caller waits: in its event loop, in its thread, or not at all.

    The coroutines of a way that blocks the thread never suspend.
    """

    def of_a_block(self) -> "Way":
        """Return the same way, for a lock that the caller keeps until a block ends."""
        ...

    async def begin(self) -> None:
        """Do the checks before the queue."""
        ...

    def enter(self, attempt: Attempt) -> Awaitable[None]:
        """Get a place, and the lock when awaited. After an error `attempt.undo` gives both back."""
        ...

    def check_upgrade(self, attempt: Attempt) -> None:
        """Raise RuntimeError if the lock at the attempt's place cannot be upgraded in this way."""
        ...

    async def upgrade(self, attempt: Attempt) -> bool:
        """Turn the reader at the attempt's place into the writer; see `Hold.upgrade`."""
        ...

    async def write(self, attempt: Attempt) -> None:
        """Get the write lock at the attempt's place, which holds nothing."""
        ...
