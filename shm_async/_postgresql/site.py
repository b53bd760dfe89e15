"""A region in one event loop: the queue of its tasks, and one session of the database.

The cohort of shared memory takes its lock in the kernel without waiting, and hands it over
between two awaits. Here every grant is a round trip, a group of writers is stored together, and
a lock may be lost while it is held. So this queue is one of its own: tasks put tickets into it,
and one task, the clerk (clerk.py), asks the database for the head of the queue, lets blocks in,
and stores what they changed. A second one, the keeper (keeper.py), sees to it that the session
lives. A task that is cancelled takes its ticket away, and disturbs neither of them.

All of it runs in the loop's own thread, between two awaits, so it needs no lock.
"""

import asyncio
import copy
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import anyio

from ..errors import RegionClosedError
from . import connecting
from .jobs import surely
from .rows import Spec
from .session import Session
from .signals import Signal, current_asyncio
from .tally import Tally
from .ticket import Ticket

__all__ = ["Site"]

#: Seconds for which readers may go on joining readers: other processes may wait to write.
MAX_SHARE = 0.05


class Site:
    """The queue of one loop.

    Invariants, between any two awaits:

    * `inside`: the tickets that were let in, and of which the clerk will hear. Either one that
      writes, or any number that read; and writers of the group that have ended and are not
      stored yet.
    * `reading` <=> the session has the shared lock, and the clerk waits for readers to leave.
    * `data`, `revision` and `token` belong together; `token` None: they are not known.
    * `taking` is when the clerk asked for the lock; 0.0: it does not ask.
    """

    def __init__(self, spec: Spec, tally: Tally, told: Callable[[int, bool], bool]) -> None:
        self.loop = current_asyncio()
        self.spec = spec
        self.tally = tally
        self.told = told  # hears of each revision; returns whether it went back
        self.queue: deque[Ticket] = deque()
        self.inside: set[Ticket] = set()
        self.reading = False
        self.shared_since = 0.0
        self.session: Session | None = None
        self.stale: connecting.Stale = []
        self.identity = 0  # of the row
        self.data = b""
        self.revision = 0
        self.token: bytes | None = None
        self.author = uuid.uuid4().bytes
        self.number = 0  # of the last store of this author
        self.taking = 0.0
        self.settled = Signal(self.loop)  # set once the request of `taking` has ended
        self.closing = False
        self.work = Signal(self.loop)  # there is something to do for the clerk
        self.call = Signal(self.loop)  # and for the keeper
        self.side: Session | None = None  # for questions while `session` waits for a lock
        self.news = Signal(self.loop)  # set, and replaced, when a revision is heard of
        self.resets = 0  # how often the revision went back: a failover lost stores
        self.trouble: Exception | None = None  # why no news can come

    # ---- begin and end -------------------------------------------------------------------

    async def connect(self, within: float | None = None) -> Session:
        """Open a session; see `connecting.connect`."""
        return await connecting.connect(self.spec, self.stale, within)

    def close(self) -> None:
        """Refuse all that wait or come. Holders keep the lock until they release it."""
        self.closing = True
        self.refuse_all(self.closed_error())
        self.hear(None)
        if self.taking:
            self.call.set()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Session]:
        """A session for a question, also while the first one waits for a lock."""
        first = self.session
        if first is not None and not first.dead and not first.lock.locked():
            yield first
            return
        if self.side is None or self.side.dead:
            self.side = await self.connect()
        yield self.side

    def closed_error(self) -> RegionClosedError:
        return RegionClosedError(f"region {self.spec.name!r} is closed")

    # ---- for tasks ---------------------------------------------------------------------

    def owner(self) -> int:
        """What stands for the running task in its tickets."""
        if self.loop is None:
            return anyio.get_current_task().id
        return id(asyncio.current_task(self.loop))

    async def acquire(self, ticket: Ticket) -> None:
        """Wait until the ticket is inside. A cancelled wait leaves nothing."""
        if self.closing:
            raise self.closed_error()
        self._refuse_to_wait_for_oneself(ticket)
        if not ticket.exclusive and self._may_join(ticket.owner):
            self.let_in(ticket, self.data, self.token)
            return
        await self._wait(ticket)

    async def _wait(self, ticket: Ticket, *, first: bool = False) -> None:
        tally, start = self.tally, monotonic()
        if self.queue or self.inside:
            tally.contended += 1
        tally.waiting += 1
        if first:
            self.queue.appendleft(ticket)
        else:
            self.queue.append(ticket)
        self.work.set()
        try:
            await ticket.called.wait()
        except BaseException:
            self._withdraw(ticket)
            raise
        finally:
            tally.wait_ended(start, granted=ticket.inside)
        if ticket.error is not None:
            raise ticket.error

    def _withdraw(self, ticket: Ticket) -> None:
        if ticket in self.queue:
            self.queue.remove(ticket)
            ticket.done.set()
            if not self.queue and self.taking:
                self.call.set()  # the keeper calls the request off
        elif ticket.inside:
            ticket.end(clean=False)
            self._heard(ticket)
            ticket.inside = False

    async def leave(self, ticket: Ticket, *, clean: bool, share: bool = False) -> None:
        """End the block of a ticket, and wait until its change is in.

        A cancellation meanwhile is delivered afterwards.

        Raises:
            LockLostError: the lock was lost. RegionServerError: the database could not store.
        """
        ticket.end(clean=clean, share=share)
        self._heard(ticket)
        await surely(ticket.shared if share else ticket.done)
        if ticket.error is not None:
            raise ticket.error

    def _heard(self, ticket: Ticket) -> None:
        """A block has ended: what the clerk need not hear is done with at once."""
        self.tally.held(ticket.since)
        if ticket not in self.inside:  # its lock was lost long ago
            self.settle_lost(ticket, committed=False)
        elif not ticket.exclusive and self.reading and self.readers() > 1:
            self.inside.discard(ticket)
            ticket.finish()
        self.work.set()

    def settle_lost(self, ticket: Ticket, *, committed: bool | None) -> None:
        """Finish a block that has ended without its lock: an error if its change is not in."""
        self.inside.discard(ticket)
        changed = ticket.exclusive and ticket.clean and self.changed(ticket)
        lost = ticket.share or (changed and committed is not True)
        ticket.finish(ticket.lost_error(self.spec.name, committed) if lost else None)

    def check_upgrade(self, old: Ticket) -> None:
        """Refuse to upgrade a reader that would wait for its own task."""
        if any(each.owner == old.owner and each is not old for each in self.inside):
            raise RuntimeError(
                f"another read lock of region {self.spec.name!r} is held here, and to upgrade this "
                "one would wait for it for ever: release the other one first"
            )

    async def upgrade(self, old: Ticket, new: Ticket) -> bool:
        """Let a reader write. True: nobody has stored in between."""
        await self.leave(old, clean=False)
        await self._wait(new, first=True)
        return new.token == old.token != b""

    # ---- what is inside ------------------------------------------------------------------

    def readers(self) -> int:
        return sum(not ticket.exclusive for ticket in self.inside)

    def has(self, owner: object) -> bool:
        """Whether that task or thread is inside."""
        return any(each.owner == owner and not each.ended for each in self.inside)

    def changed(self, ticket: Ticket) -> bool:
        return ticket.data != ticket.base

    def let_in(self, ticket: Ticket, data: bytes, token: bytes | None, fence: int = 0) -> None:
        """Let a ticket in, with a copy of its own if it writes."""
        mine = bytearray(data) if ticket.exclusive else data
        ticket.admit(mine, data, token or b"", fence)
        self.inside.add(ticket)
        self.tally.granted(exclusive=ticket.exclusive)

    def _may_join(self, owner: object) -> bool:
        if not self.reading or self.session is None or self.session.dead:
            return False
        if self.has(owner):  # a nested read must not wait for its own task
            return True
        return not self.queue and monotonic() - self.shared_since < MAX_SHARE

    def _refuse_to_wait_for_oneself(self, ticket: Ticket) -> None:
        for each in self.inside:
            if each.owner != ticket.owner or each.ended or not (each.exclusive or ticket.exclusive):
                continue
            kind = "the write lock" if each.exclusive else "a read lock"
            raise RuntimeError(
                f"this task or thread holds {kind} of region {self.spec.name!r} already and would "
                "wait for itself: use the hold that it has, or release it first"
            )

    # ---- for the clerk and the keeper ------------------------------------------------------

    def refuse_all(self, error: Exception) -> None:
        """End all waits; each gets an exception of its own."""
        while self.queue:
            self.queue.popleft().refuse(copy.copy(error))

    def hear(self, revision: int | None, *, exactly: bool = False) -> None:
        """A revision was told. Exactly: it is the one by now, and not an older one come late."""
        if revision is not None:
            self.resets += self.told(revision, exactly)
        self.news.set()
        self.news = Signal(self.loop)

    def know(self, revision: int, token: bytes, data: bytes) -> None:
        """This is what the region is now."""
        self.revision, self.token, self.data = revision, token, data
        self.hear(revision, exactly=True)

    def lose(self) -> None:
        """The session is gone, and with it the lock."""
        if self.session is not None and not self.session.dead:
            self.session.wire.dead = True
        for ticket in self.inside:
            ticket.lose()
        self.work.set()

    def drop(self) -> None:
        """End the session; the next request makes a new one."""
        session, self.session = self.session, None
        if session is None:
            return
        if session.dead:
            self.stale.append((session.pid, session.started))
        session.close()
