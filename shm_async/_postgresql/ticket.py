"""A block that waits for the lock, has it, or has had it: seen from the queue of its loop."""

import asyncio
import math
import threading
from time import monotonic

import anyio

from .._forks import undivided
from ..errors import LockLostError
from .signals import Signal

__all__ = ["Ticket"]

Event = anyio.Event | threading.Event


class Ticket:
    """One block.

    Invariants: it is in the queue, or inside, or over. `data` is the block's own copy while it is
    inside and writes. `called` is set when the wait is over: with `error`, or inside. `moved` is
    set when the block has ended or its lock was lost; `done` when nothing more happens to it.
    """

    __slots__ = (
        "base",
        "called",
        "clean",
        "data",
        "deadline",
        "done",
        "ended",
        "error",
        "exclusive",
        "fence",
        "in_thread",
        "inside",
        "loop",
        "lost",
        "lost_event",
        "moved",
        "on_lost",
        "owner",
        "share",
        "shared",
        "since",
        "token",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None,
        *,
        exclusive: bool,
        owner: object,
        in_thread: bool,
        deadline: float,
    ) -> None:
        self.loop = loop
        self.exclusive = exclusive
        self.owner = owner  # the task or thread, compared by identity or equality
        self.in_thread = in_thread  # what waits for it there waits by a threading.Event
        self.lost = False
        self.lost_event: Event | None = None
        self.deadline = deadline  # of the wait, as the loop's clock counts; infinite: none
        self.called = Signal(loop)
        self.moved = Signal(loop)
        self.done = Signal(loop)
        self.shared = Signal(loop)  # a writer that asked to go on as a reader does so, or is done
        self.error: Exception | None = None
        self.inside = False
        self.ended = False
        self.clean = False  # once it has ended: whether its change is to be stored
        self.share = False  # once it has ended: whether it goes on as a reader
        self.data: bytes | bytearray = b""
        self.base = b""  # the data that it was granted
        self.token = b""  # of `base`
        self.fence = 0
        self.since = monotonic()
        self.on_lost: anyio.CancelScope | None = None  # cancelled when the lock is lost

    @property
    def has_deadline(self) -> bool:
        return not math.isinf(self.deadline)

    def admit(self, data: bytes | bytearray, base: bytes, token: bytes, fence: int) -> None:
        """Let it in. `since` is when it came in, from now on."""
        self.data, self.base, self.token, self.fence = data, base, token, fence
        self.inside = True
        self.since = monotonic()
        self.called.set()

    def refuse(self, error: Exception) -> None:
        """End its wait."""
        self.error = error
        self.called.set()
        self.done.set()

    def end(self, *, clean: bool, share: bool = False) -> None:
        """Its block has ended."""
        self.ended, self.clean, self.share = True, clean, share
        self.moved.set()

    def lose(self) -> None:
        """Its lock is gone."""
        self.mark_lost()
        self.moved.set()
        if self.on_lost is not None and not self.ended:
            self.on_lost.cancel()

    def mark_lost(self) -> None:
        self.lost = True
        if self.lost_event is not None:
            self.lost_event.set()

    def event_of_loss(self) -> Event:
        """The event for the user, made when somebody asks for it. Any thread may ask."""
        with undivided:
            if self.lost_event is None:
                self.lost_event = threading.Event() if self.in_thread else anyio.Event()
        if self.lost:  # maybe before there was an event
            self.lost_event.set()
        return self.lost_event

    def finish(self, error: Exception | None = None) -> None:
        """All is done that its exit waits for."""
        self.inside = False
        self.error = error
        self.done.set()
        self.shared.set()

    def go_on_reading(self, data: bytes, token: bytes) -> None:
        """Its change is in, and it holds the read lock now."""
        self.exclusive = self.ended = self.share = False
        self.data, self.base, self.token = data, data, token
        self.moved = Signal(self.loop)
        self.since = monotonic()
        self.shared.set()

    def lost_error(self, name: str, committed: bool | None) -> LockLostError:
        """The error for a change that is not in, or of which nobody knows."""
        if committed is None:
            what = "the database could not be asked whether its change is in: read it and decide"
        elif committed:
            what = "its change is in: take the lock again to read on"
        else:
            what = "its change is not in: take the lock again and repeat it"
        error = LockLostError(f"the lock of region {name!r} was lost, and {what}")
        error.committed, error.fence = committed, self.fence
        return error
