"""What an event loop has of a region: its site, and the jobs that serve it."""

from time import monotonic

import anyio

from . import hub
from .clerk import Clerk
from .connecting import FIRST_PAUSE, LONGEST_PAUSE
from .failures import DisconnectedError
from .jobs import Job
from .keeper import Keeper
from .rows import find_or_create
from .site import Site

__all__ = ["Entry"]


class Entry:
    """One loop's part of a region. `ready` guards `begin`; `begun` tells that it succeeded."""

    __slots__ = ("_jobs", "begun", "count", "ready", "site")

    def __init__(self, site: Site) -> None:
        self.site = site
        self.count = 0
        self.ready = anyio.Lock()
        self.begun = False
        self._jobs: list[Job] = []

    async def begin(self) -> None:
        """Connect, find or create the region, and start. Tries for `connect_timeout`.

        Raises what the last attempt raised, and at once what will not pass by.
        """
        end = monotonic() + self.site.spec.terms.connect_timeout
        pause = FIRST_PAUSE
        while (error := await self._trouble_with_connecting()) is not None:
            if monotonic() + pause > end:
                raise error
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        site = self.site
        self._jobs = [
            Job(Clerk(site).run, f"shm_async clerk of {site.spec.name}"),
            Job(Keeper(site).run, f"shm_async keeper of {site.spec.name}"),
        ]
        self.begun = True

    async def _trouble_with_connecting(self) -> DisconnectedError | None:
        """Connect once; returns why a later attempt may do better."""
        site = self.site
        try:
            session = await site.connect()
            try:
                site.identity, revision = await find_or_create(session, site.spec)
            except BaseException:
                session.close()
                raise
        except DisconnectedError as error:
            return error
        site.session = session
        site.told(revision, True)
        return None

    async def end(self, owner: object) -> None:
        """Close; wait for the other holders of this loop, and end the session."""
        site = self.site
        site.close()
        try:
            if site.taking:  # the keeper calls it off, else the server waits for a while in vain
                with anyio.move_on_after(LONGEST_PAUSE, shield=True):
                    await site.settled.wait()
            for ticket in list(site.inside):
                if ticket.ended or ticket.owner != owner:
                    await ticket.done.wait()
        finally:
            for job in self._jobs:
                await job.end()
            await hub.leave(site)
            site.drop()
            if site.side is not None:
                site.side.close()
