"""The listener of a loop: one connection that hears of the stores of all its regions.

It subscribes first and reads the revision after it. So a store is either in what it reads, or
told, and none is missed; that holds after a reconnection, too.
"""

from time import monotonic

import anyio
import anyio.lowlevel

from .._lock.loops import adapt
from ..errors import ShmError
from .address import Terms
from .connecting import FIRST_PAUSE, LONGEST_PAUSE
from .failures import CalledOff, DisconnectedError
from .jobs import Job
from .session import Session
from .site import Site

__all__ = ["Hub", "leave"]

#: A loop, and the database that a hub listens to.
Key = tuple[object, tuple[tuple[str, str], ...], Terms]

#: The hubs of each running loop. One that ends is taken out first, so none is found too late.
_hubs: dict[Key, "Hub"] = {}


class Hub:
    """The listener for some sites of one loop that lie in one database.

    Invariant: a site in `sites` is subscribed, or will be at the next turn; `ready[site]` is set
    once it is.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.sites: dict[bytes, set[Site]] = {}  # by channel
        self.ready: dict[Site, anyio.Event] = {}
        self.session: Session | None = None
        self.turn = anyio.CancelScope()  # of the wait that a new site ends
        self.trouble = 0.0  # since when it cannot connect; 0.0: it can
        self.job = Job(self._run, "shm_async listener")

    @classmethod
    def of(cls, site: Site) -> "Hub":
        """The hub of this loop for the site's database, started if there is none."""
        spec = site.spec
        key = (
            anyio.lowlevel.current_token().native_token,
            tuple(sorted(spec.parameters.items())),
            spec.terms,
        )
        if key not in _hubs:
            for old in [each for each in _hubs if adapt(each[0]).is_over()]:
                del _hubs[old]
            _hubs[key] = cls(key)
        return _hubs[key]

    async def follow(self, site: Site) -> None:
        """Have the site hear of stores from now on; those before are in its generation."""
        if site not in self.ready:
            self.ready[site] = anyio.Event()
            self.sites.setdefault(channel_of(site), set()).add(site)
            self.turn.cancel()
        await self.ready[site].wait()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self.ready:
                try:
                    await self._listen()
                except (DisconnectedError, CalledOff) as error:
                    self._drop()
                    self._tell_of_trouble(error)
                except (ShmError, OSError) as error:  # it will not pass by
                    self._tell(error, list(self.ready))
                    return
                else:
                    pause = FIRST_PAUSE
                    continue
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._drop()
            self._retire()
            self._tell(DisconnectedError("the listener has ended"), list(self.ready))

    def _retire(self) -> None:
        if _hubs.get(self.key) is self:
            del _hubs[self.key]

    def _tell_of_trouble(self, error: Exception) -> None:
        now = monotonic()
        self.trouble = self.trouble or now
        lasted = now - self.trouble
        self._tell(error, [site for site in self.ready if lasted > site.spec.terms.connect_timeout])

    def _tell(self, error: Exception, sites: list[Site]) -> None:
        """End the waits of those sites with an error; their next wait begins again."""
        for site in sites:
            self._forget(site)
            site.trouble = error
            site.hear(None)

    def _drop(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()
        for site, ready in list(self.ready.items()):
            if ready.is_set():
                self.ready[site] = anyio.Event()

    async def _listen(self) -> None:
        """One turn: subscribe what is new, wait for news or for a quarter of an interval."""
        site = next(iter(self.ready))
        interval = site.spec.terms.check_interval
        if self.session is None:
            self.session = await site.connect()
            self.trouble = 0.0
        session = self.session
        while not all(ready.is_set() for ready in self.ready.values()):
            await self._subscribe(session)
        self._deliver(session)
        with anyio.move_on_after(interval) as self.turn:
            await session.wire.arrival()
        if not session.wire.look():
            raise DisconnectedError("the listener's connection is gone")
        if self.turn.cancelled_caught:
            with anyio.move_on_after(interval):
                await session.probe()
            if session.dead:
                raise DisconnectedError("the database does not answer")
        self._deliver(session)

    async def _subscribe(self, session: Session) -> None:
        for site, ready in list(self.ready.items()):
            if ready.is_set():
                continue
            await session.ask("listen", f'LISTEN "{channel_of(site).decode()}"')
            found = await session.look(site.identity)
            site.trouble = None
            if found is not None:
                site.hear(found.revision, exactly=True)
            ready.set()

    def _deliver(self, session: Session) -> None:
        for channel, text in session.wire.notifications():
            for site in self.sites.get(channel, ()):
                site.hear(int(text))

    async def forget(self, site: Site) -> None:
        """Have the site hear no more; the last one ends the hub."""
        self._forget(site)
        if not self.ready:
            self._retire()
            await self.job.end()

    def _forget(self, site: Site) -> None:
        ready = self.ready.pop(site, None)
        if ready is not None:
            ready.set()
        channel = channel_of(site)
        others = self.sites.get(channel, set())
        others.discard(site)
        if not others:
            self.sites.pop(channel, None)


async def leave(site: Site) -> None:
    """Have the hub that a site follows forget it."""
    for hub in list(_hubs.values()):
        if site in hub.ready:
            await hub.forget(site)


def channel_of(site: Site) -> bytes:
    return f"{site.spec.terms.schema}.{site.identity}".encode()
