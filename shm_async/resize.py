"""Resizing: another segment in a region's place, with its data, its name and its lock's users.

What others have mapped neither shrinks nor moves: they find out at their next lock or
snapshot. attachment.py has the protocol.
"""

import math
from collections.abc import Sequence
from threading import Lock

from . import attachment, elements
from .attachment import Attachment
from .errors import RegionReplacedError
from .filelock import Opener, replaced
from .layouts import Plan
from .locks import close_locks
from .segment import Segment
from .statistics import Ledger
from .synclock import check_timeout
from .transaction import LateHold
from .watch import Watches, close_lookouts

__all__ = ["Resizable"]


class Resizable(Watches):
    """What a Region is to those who want it larger or smaller."""

    __slots__ = ("_moving", "_plan", "_segment")

    # Invariant: _opener, while there is one, is of _segment, laid out as _plan says. They change
    # together, under _moving, when nobody can be inside. The two outlive close.
    _segment: Segment
    _plan: Plan
    _moving: Lock

    def resize(
        self,
        length: int | None = None,
        *,
        shape: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Give the region another number of elements. New ones are zero; those beyond are lost.

        Takes the write lock, makes a new object of that size, copies the data, and gives it
        the region's name, in one step: whoever attaches finds the old one or the new one. All
        others who are attached keep the old memory and are told at their next lock or snapshot:
        RegionReplacedError, or with ``follow=True`` they go over to the new one. `buffer`,
        and views made from it, are stale from then on.

        Blocks the thread: for the lock, while the kernel reserves the memory, and for a memcpy. A
        process that is killed while it resizes leaves the region as it was, or resized. Who
        waits for the lock meanwhile loses its place, so do not resize without pause.

        Args:
            length: elements.
            shape: instead of `length`; where there are several dimensions only the first one may
                change.
            timeout: seconds to wait for the lock (LockTimeoutError).

        Raises:
            ValueError: it is not managed, or of System V, which cannot be replaced; or the shape
                is another one in more than its first dimension. TypeError: no number.
            PermissionError: it is another user's, or was attached with ``readonly=True``.
            OSError: ENOSPC, ENOMEM. RegionNotFoundError: its name is gone. And as for `write_lock`.
        """
        wanted = self._check_wanted(length, shape)
        with LateHold(self, check_timeout(timeout), True):
            self._replace(wanted)

    async def resize_async(
        self, length: int | None = None, *, shape: Sequence[int] | None = None
    ) -> None:
        """Do what `resize` does, and wait for the lock in the event loop; cancellable there.

        The rest blocks the loop: reserving the memory, and a memcpy.
        """
        wanted = self._check_wanted(length, shape)
        async with LateHold(self, None, True):
            self._replace(wanted)

    def _check_wanted(self, length: int | None, shape: Sequence[int] | None) -> tuple[int, ...]:
        self._check_writable()
        if self._plan.layout != "managed" or self._segment.key is not None:
            kind = self._plan.layout if self._segment.key is None else "a System V segment"
            raise ValueError(
                f"region {self._name!r} is {kind}, and only managed ones that have a name can be "
                "resized: others could not find out; create another one"
            )
        wanted = elements.check_shape(length, shape)
        if wanted is None:
            raise TypeError("how many elements? give length or shape")
        return wanted

    def _replace(self, shape: tuple[int, ...]) -> None:
        """Put another segment in the place of ours, on which this thread, or task, has the lock."""
        now = self._plan.shape
        if len(shape) == 1 and len(now) > 1 and shape[0] % math.prod(now[1:]) == 0:
            shape = (shape[0] // math.prod(now[1:]), *now[1:])
        if shape[1:] != now[1:]:
            raise ValueError(
                f"region {self._name!r} has the shape {now}, not {shape}: "
                "only the first dimension may change"
            )
        if shape != now:
            with self._moving:
                self._move_to(attachment.replace(self._now(), shape, self._terms))

    def _follow(self, error: RegionReplacedError) -> None:
        """Go over to what has replaced the region, unless another thread has done so just now."""
        with self._moving:
            now = self._now()
            if not attachment.replaced(now):
                return
            if not self._terms.follow:
                raise error
            self._move_to(attachment.successor(now, self._terms))

    def _now(self) -> Attachment:
        return Attachment(self._segment, self._usable().mapping, self._plan)

    def _start_afresh(self) -> None:
        self._moving = Lock()
        self._segment.renew(self._usable().mapping)
        super()._start_afresh()

    def _move_to(self, new: Attachment) -> None:
        """Use another segment from now on. Who still waits for the old one's lock will be told."""
        segment, pool, cohorts = self._segment, self._pool, self._cohorts
        lookouts = self._lookouts
        self._use(new, self._ledger)
        close_locks(pool, cohorts, replaced)
        close_lookouts(lookouts, replaced)
        segment.close()

    def _use(self, found: Attachment, ledger: Ledger) -> None:
        try:
            opener = Opener(
                found.segment,
                found.mapping,
                found.control(),
                found.view(),
                ledger,
                ignores_death=self._terms.on_owner_death == "ignore",
                linked=self._terms.if_unlinked == "raise",
            )
        except BaseException:
            found.segment.close()
            raise
        self._segment = found.segment
        self._plan = found.plan
        self._have_locks(opener)
