"""The facts of a region: its name, size, element type and state.

The class Region is long, so it is split over four files. Each has a class that adds methods to
the class before: the facts (here), the methods of an open region (_surface.py), replacement and
end (_lifetime.py), and construction (_region.py). Its state, declared here and in _lifetime.py,
has three parts: an attachment, a lock table and watchers.
"""

from ._lock.table import LockTable
from ._memory.attachment import Attachment
from ._memory.layouts import Layout
from ._mistakes import NotASequence
from ._native import control_generation
from ._terms import Terms
from ._watch import descriptors
from ._watch.changes import Watchers

__all__ = ["Facts"]


class Facts(NotASequence):
    """The facts of a region."""

    __slots__ = ("_attachment", "_created", "_name", "_table", "_terms", "_watchers")

    # Invariant: _table, while it is open, locks the segment of _attachment, and its views are of
    # that mapping. A resize replaces the attachment as a whole; all three outlive close.
    _attachment: Attachment
    _table: LockTable
    _watchers: Watchers
    _terms: Terms
    _name: str
    _created: bool

    @property
    def name(self) -> str:
        """Its name, without a leading slash; for a System V segment its key, in hex."""
        return self._name

    @property
    def key(self) -> int | None:
        """The key of its System V segment; None if it has a name instead."""
        return self._attachment.segment.key

    @property
    def id(self) -> int | None:
        """The id (shmid) of its System V segment, which tools such as ipcs show; or None."""
        return self._attachment.segment.id

    @property
    def attachments(self) -> int | None:
        """The number of attachments of its System V segment, in all processes; or None.

        That is shm_nattch.

        Raises:
            RegionNotFoundError: it was removed, and neither this region nor another is attached.
        """
        return self._attachment.segment.attachments()

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of elements in each dimension."""
        return self._attachment.plan.shape

    @property
    def nbytes(self) -> int:
        """The number of bytes of data."""
        return self._attachment.plan.nbytes

    @property
    def dtype(self) -> str:
        """The name of the element type."""
        return self._attachment.plan.dtype

    @property
    def layout(self) -> Layout:
        """The place of the data in the segment, "managed", "raw" or "sized"."""
        return self._attachment.plan.layout

    @property
    def created(self) -> bool:
        """Whether this object created the region, rather than attached to it."""
        return self._created

    @property
    def readonly(self) -> bool:
        """Whether it was attached for reading only."""
        return self._terms.readonly

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._table.opener is None

    @property
    def generation(self) -> int | None:
        """A counter of writes. Each write lock adds 2, and it is odd while one is held.

        A transaction adds 2 at its end, if it changed anything, and makes it odd only then.
        If it is odd and no writer is active, a writer has died. None for raw and sized regions,
        which have no place to keep it. Needs no lock.

        Raises:
            RegionSizeError: the object was truncated.
        """
        control = self._table.whole().control
        return None if control is None else control_generation(control)

    @property
    def linked(self) -> bool:
        """Whether the name, or the key, still leads to this segment."""
        self._table.usable()
        return self._attachment.segment.linked()

    def filenos(self) -> list[int]:
        """Return the open descriptors of the region, its locks and its watchers in this process.

        A program that closes all descriptors unknown to it, such as a daemon, must keep these
        open (``files_preserve`` of python-daemon, ``pass_fds``). The first lock of another thread
        or event loop may open more. If the program closes one, the next lock opens it again
        through the name, but a lock that was held meanwhile is lost. Never blocks.

        Raises:
            RegionClosedError: it is closed.
        """
        handles = [handle for handle, _ in list(self._table.usable().ahead)]
        handles += [seat.handle for seat in list(self._table.pool.seats)]
        handles += [cohort.handle for cohort in list(self._table.cohorts.values())]
        return descriptors.filenos(self._attachment.segment, handles, self._watchers.lookouts())

    def __len__(self) -> int:
        """Return the number of elements."""
        return self._attachment.plan.length

    def __repr__(self) -> str:
        plan = self._attachment.plan
        states = [plan.layout, "closed" if self.closed else "open"]
        if self._terms.readonly:
            states.insert(1, "readonly")
        size = " x ".join(map(str, plan.shape))
        return f"<Region {self._name!r}: {size} x {plan.dtype}, {', '.join(states)}>"
