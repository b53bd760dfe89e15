"""The clerk of a loop: asks the database for the head of the queue, and stores.

* **Take.** The lock and the data in one round trip. When the session breaks, it connects again and
  queues again.
* **Write.** The writers at the head of the queue run one after another, each on a copy of its own
  of what the one before has left; then one UPDATE stores it all, and the lock is released in the
  same round trip. A group ends after a number of blocks or some milliseconds; a block that lasts
  longer does not keep those before it waiting.
* **Read.** All readers up to the next writer share the lock.
* **Lost answers.** If the connection breaks while it stores, nobody knows whether the change is in.
  The old session is ended, the lock taken, which it held until its last transaction was over, and
  the number of our last store is read.
"""

import copy
import math
from contextlib import suppress
from time import monotonic

import anyio

from ..errors import RegionNotFoundError, RegionSizeError, ShmError
from .connecting import FIRST_PAUSE, LONGEST_PAUSE
from .failures import CalledOff, DisconnectedError
from .group import Group
from .session import Grant, Session
from .signals import Signal
from .site import Site
from .ticket import Ticket

__all__ = ["Clerk"]


class Clerk:
    """Serves one site, until it is cancelled."""

    def __init__(self, site: Site) -> None:
        self.site = site

    async def run(self) -> None:
        site = self.site
        try:
            while True:
                if not site.queue:
                    site.work = Signal(site.loop)
                    await site.work.wait()
                    continue
                await self._serve()
        finally:
            site.closing = True  # if a failure ends it, too: nobody serves a later wait
            site.refuse_all(site.closed_error())
            for ticket in list(site.inside):
                ticket.lose()
                if ticket.ended:
                    site.settle_lost(ticket, committed=False)
            site.inside.clear()
            site.drop()

    async def _serve(self) -> None:
        site = self.site
        exclusive = site.queue[0].exclusive
        grant = await self._take(exclusive)
        if grant is None:
            return
        try:
            if not self._accept(grant) or not site.queue or site.queue[0].exclusive != exclusive:
                await self._free()
            elif exclusive:
                await self._write(grant)
            else:
                await self._read()
        except (ShmError, OSError, CalledOff):
            site.lose()
        if site.session is not None and site.session.dead:
            self._settle_lost()
            site.drop()

    # ---- take ------------------------------------------------------------------------------

    async def _take(self, exclusive: bool) -> Grant | None:
        """The lock; None if nobody wants it any more, or all who did were told why not."""
        site = self.site
        trouble: float | None = None
        pause = FIRST_PAUSE
        while site.queue and site.queue[0].exclusive == exclusive:
            try:
                session = await self._session()
                if not site.queue:  # all have withdrawn meanwhile
                    return None
                site.taking, site.settled = monotonic(), Signal(site.loop)
                site.tally.requests += 1
                grant = await session.take(
                    site.identity, exclusive=exclusive, known=site.token, patience=self._patience()
                )
                if grant is None:
                    site.refuse_all(
                        RegionNotFoundError(2, "removed from the database", site.spec.name)
                    )
                return grant
            except CalledOff:
                continue
            except DisconnectedError as error:
                site.drop()
                now = monotonic()
                trouble = now if trouble is None else trouble
                self._refuse_overdue(trouble, error)
            except (ShmError, OSError) as error:
                site.refuse_all(error)
                return None
            finally:
                site.taking = 0.0
                site.settled.set()
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return None

    async def _session(self, within: float | None = None) -> Session:
        site = self.site
        if site.session is not None and site.session.dead:
            site.drop()
        if site.session is None:
            site.session = await site.connect(within)
        return site.session

    def _patience(self) -> int:
        """Milliseconds after which nobody waits any more; 0: somebody waits without a limit."""
        queue = self.site.queue
        if not all(ticket.has_deadline for ticket in queue):
            return 0
        left = max(ticket.deadline for ticket in queue) - anyio.current_time()
        return min(math.ceil(1000 * max(left, 0)) + 1000, 2**31 - 1)

    def _refuse_overdue(self, trouble: float, error: Exception) -> None:
        """End waits that have no deadline, once the trouble has lasted for too long."""
        site = self.site
        earliest = monotonic() - site.spec.terms.connect_timeout
        for ticket in list(site.queue):
            if not ticket.has_deadline and max(trouble, ticket.since) < earliest:
                site.queue.remove(ticket)
                ticket.refuse(copy.copy(error))

    def _accept(self, grant: Grant) -> bool:
        """Take note of what was granted; False: it is not what this region is."""
        site = self.site
        data = site.data if grant.data is None else grant.data
        if len(data) != site.spec.nbytes:
            site.refuse_all(
                RegionSizeError(
                    f"region {site.spec.name!r} has {len(data)} bytes in the database, not "
                    f"{site.spec.nbytes}: somebody changed its row"
                )
            )
            return False
        site.know(grant.revision, grant.token, data)
        return True

    async def _free(self) -> None:
        session = self.site.session
        if session is not None and not session.dead:
            with anyio.move_on_after(2 * self.site.spec.terms.check_interval):
                await session.free()

    # ---- read ------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Readers share the lock until the last of them has left."""
        site = self.site
        site.reading, site.shared_since = True, monotonic()
        while site.queue and not site.queue[0].exclusive:
            site.let_in(site.queue.popleft(), site.data, site.token)
        await self._until_read()

    async def _until_read(self) -> None:
        site = self.site
        try:
            while any(not ticket.ended for ticket in site.inside) and not self._lost():
                self._finish_ended()
                site.work = Signal(site.loop)
                await site.work.wait()
        finally:
            site.reading = False
        if not self._lost():
            await self._free()
            self._finish_ended()

    def _finish_ended(self) -> None:
        site = self.site
        for ticket in [each for each in site.inside if each.ended]:
            site.inside.discard(ticket)
            ticket.finish()

    def _lost(self) -> bool:
        session = self.site.session
        return session is None or session.dead

    # ---- write -----------------------------------------------------------------------------

    async def _write(self, grant: Grant) -> None:
        """Let writers in one after another, and store what they have changed."""
        site = self.site
        group = Group(site, grant.fence)
        while site.queue and site.queue[0].exclusive and group.has_room():
            ticket = site.queue.popleft()
            site.let_in(ticket, group.data, group.token, group.fence + group.blocks)
            site.tally.hand_overs += group.blocks > 0
            group.blocks += 1
            await self._block(ticket, group)
            if self._lost():
                return
            if self._take_in(ticket, group):
                await self._store(group, "share")
                if not self._lost() and ticket in site.inside:
                    await self._go_on_reading(ticket)
                return
        await self._store(group, "free")

    async def _block(self, ticket: Ticket, group: Group) -> None:
        """Wait until the block has ended, or lost its lock; store the others' changes meanwhile."""
        if group.members:
            with anyio.move_on_after(group.time_left()):
                await ticket.moved.wait()
            if not ticket.moved.is_set():
                await self._store(group, "keep")
        await ticket.moved.wait()

    def _take_in(self, ticket: Ticket, group: Group) -> bool:
        """Take in what a block has changed. True: it wants to go on as a reader."""
        site = self.site
        if ticket.clean and site.changed(ticket):
            group.add(ticket)
        elif not ticket.share:
            site.inside.discard(ticket)
            ticket.finish()
        return ticket.share

    async def _go_on_reading(self, ticket: Ticket) -> None:
        site = self.site
        site.reading, site.shared_since = True, monotonic()
        ticket.go_on_reading(site.data, site.token or b"")
        await self._until_read()

    async def _store(self, group: Group, then: str) -> None:
        """Store what the members have left, and tell them. The lock is then as `then` says."""
        site = self.site
        members, group.members = group.members, []
        session = site.session
        if session is None or session.dead:
            return
        if not members:
            await self._without_store(session, then)
            return
        committed: bool | None = None
        error: Exception | None = None
        try:
            stored: bool | None = await self._commit(session, group, then)
            if not stored:
                stored = await self._was_stored(members) if session.dead else False
                site.lose()
            committed = stored
        except (ShmError, OSError, CalledOff) as caught:
            error = caught
        finally:  # also if this is cancelled, and so nobody knows
            self._tell(members, committed, error, share=then == "share")
        if error is not None:
            self._after_refusal(then)

    async def _commit(self, session: Session, group: Group, then: str) -> bool:
        """Store. False: the server refused, or, if the session is dead, no answer came."""
        site = self.site
        site.number += 1
        moved: Grant | None = None
        with suppress(DisconnectedError):
            moved = await session.store(
                site.identity, site.revision, site.author, site.number, group.data, then=then
            )
        if moved is not None:
            site.know(moved.revision, moved.token, group.data)
            group.token = moved.token
        return moved is not None

    def _after_refusal(self, then: str) -> None:
        """The database could not store: give up what goes on as if it had.

        A block that runs began with the changes that failed; its store would bring them in. And
        nobody would release the shared lock.
        """
        self.site.token = None
        if then != "free":
            self.site.lose()

    async def _without_store(self, session: Session, then: str) -> None:
        if then == "free":
            await self._free()
        elif then == "share":
            await session.share(self.site.identity)

    def _tell(
        self, members: list[Ticket], committed: bool | None, error: Exception | None, *, share: bool
    ) -> None:
        site = self.site
        for ticket in members:
            if error is not None:
                site.inside.discard(ticket)
                ticket.finish(copy.copy(error))
            elif committed is not True or (self._lost() and ticket.share):
                ticket.mark_lost()
                site.settle_lost(ticket, committed=committed)
            elif not (share and ticket.share):
                site.inside.discard(ticket)
                ticket.finish()

    # ---- lost ------------------------------------------------------------------------------

    def _settle_lost(self) -> None:
        """The session is gone: nothing of what was not stored by now will be."""
        site = self.site
        site.reading = False
        for ticket in list(site.inside):
            ticket.lose()
            site.inside.discard(ticket)  # a block that goes on hears of it at its end
            if ticket.ended:
                site.settle_lost(ticket, committed=False)

    async def _was_stored(self, members: list[Ticket]) -> bool | None:
        """Whether our last store is in; None: the database cannot be asked in time."""
        site = self.site
        for ticket in members:
            ticket.mark_lost()
        site.token = None
        interval = site.spec.terms.check_interval
        with anyio.move_on_after(2 * interval), suppress(ShmError, OSError):
            while True:
                with suppress(DisconnectedError, CalledOff):
                    return await self._ask_for_store(await self._session(within=interval / 2))
                await anyio.sleep(FIRST_PAUSE)
        return None

    async def _ask_for_store(self, session: Session) -> bool | None:
        site = self.site
        if not await session.take(site.identity, exclusive=False, known=site.token, patience=0):
            return None  # the region was removed, and its writers with it
        found = await session.ask(
            "look for a store",
            f"SELECT 1 FROM {site.spec.terms.schema}.writers WHERE region = $1::int "
            "AND writer = encode($2::bytea, 'hex')::uuid AND store >= $3::int8",
            b"%d" % site.identity,
            b"\\x" + site.author.hex().encode(),
            b"%d" % site.number,
        )
        await session.free()
        return bool(found.ntuples)
