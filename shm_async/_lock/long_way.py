"""Holds that always use the slow path: for a label, or for another manner of beginning.

A hold with a label puts it into LABEL for as long as it acquires, converts or releases, and is
in its table's `labelled` while it has the lock.
"""

from collections.abc import Awaitable, Iterable
from time import monotonic
from types import TracebackType
from weakref import ref

from . import slow
from .contract import Attempt, Place, Refusal, Table, Way
from .deadlines import Deadline
from .done import DONE
from .fast import ReadHold, WriteHold
from .hold import Hold
from .labels import said
from .loops import Task
from .ways import InThread

__all__ = ["Block", "LabelledReadHold", "LabelledWriteHold", "LongWay", "SpecialHold", "labels_of"]


class Block:
    """The end of a block of `with` or `async with`: both end in `_end_block`, which never waits."""

    __slots__ = ()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_block(clean=kind is None)

    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Awaitable[None]:
        self._end_block(clean=kind is None)
        return DONE

    def _end_block(self, *, clean: bool) -> None:
        raise NotImplementedError  # each class that has blocks says how they end


class LongWay(Block, Hold):
    """A hold that never uses the fast path, and may have a label."""

    __slots__ = ("_label", "_since")

    def __init__(
        self,
        table: Table,
        timeout: float | None,
        fast_acquire: bool,
        region: object,
        label: str | None = None,
    ) -> None:
        super().__init__(table, timeout, fast_acquire, region)
        self._label = label
        self._since = 0.0  # when it got the lock

    @property
    def label(self) -> str | None:
        """The purpose of the lock: the `label` that it was made with; None: it has none."""
        return self._label

    def _another(self) -> Hold:
        fast_acquire = self.plain or self._timeout is not None
        return type(self)(self._table, self._timeout, fast_acquire, self._region, self._label)

    # ---- acquire and release -----------------------------------------------------

    async def __aenter__(self) -> memoryview:
        return await self._claim_and_acquire(self._way())

    def __enter__(self) -> memoryview:
        way = InThread(Deadline(self._timeout))
        return slow.run(self._claim_and_acquire(way))

    def _end_block(self, *, clean: bool) -> None:
        at = self._at
        foreign = at is not None and at.is_foreign()
        if not foreign and self._take_to_end():
            self._end(clean=clean)

    # ---- with its label ------------------------------------------------------------

    async def _acquire(self, way: Way, refusal: Refusal | None = None) -> memoryview:
        if self._label is None:
            return await super()._acquire(way, refusal)
        with said(self._label):
            return await super()._acquire(way, refusal)

    async def _upgrade(self, way: Way) -> bool:
        with said(self._label):
            kept = await super()._upgrade(way)
            self._granted(exclusive=True)
            return kept

    def upgrade_nowait(self) -> None:
        super().upgrade_nowait()
        self._granted(exclusive=True)

    def _downgrade(self, attempt: Attempt) -> None:
        with said(self._label):
            super()._downgrade(attempt)

    def _entered(self, place: Place, task: Task = None, beside: bool = False) -> memoryview:
        if self._label is not None:
            self._table.labelled[id(self)] = ref(self)
            self._granted(self.exclusive)
            self._since = monotonic()
        return super()._entered(place, task, beside)

    def _granted(self, exclusive: bool) -> None:
        if self._label is not None:
            self._table.ledger.labels.granted(self._label, exclusive)

    def _leave(self) -> None:
        if self._label is None:
            super()._leave()
            return
        with said(self._label):
            try:
                self._table.ledger.labels.held(self._label, monotonic() - self._since)
                self._table.labelled.pop(id(self), None)
            finally:
                super()._leave()

    def _undo(self) -> None:
        super()._undo()
        self._table.labelled.pop(id(self), None)

    def stands(self) -> tuple[int, Task] | None:
        """Return the id of its place, and the task to which a cohort counts it; None: not held."""
        at = self._at
        return None if at is None else (id(at), self._task if at.in_loop else None)


class SpecialHold(LongWay, WriteHold):
    """A write lock that begins in another manner than usual."""

    __slots__ = ()


class LabelledWriteHold(LongWay, WriteHold):
    """A write lock with a label."""

    __slots__ = ()


class LabelledReadHold(LongWay, ReadHold):
    """A read lock with a label."""

    __slots__ = ()


def labels_of(labelled: "Iterable[ref[LongWay]]") -> dict[tuple[int, Task], str]:
    """Return the labels of the held locks, by `LongWay.stands`; of nested ones the inner."""
    found = {}
    for hold in [reference() for reference in labelled]:
        place = None if hold is None else hold.stands()
        if hold is not None and place is not None and hold.label is not None:
            found[place] = hold.label
    return found
