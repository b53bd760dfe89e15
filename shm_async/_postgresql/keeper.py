"""The keeper of a loop: finds out that the session is gone, and calls requests off.

While a lock is held nobody talks to the server, so nothing would tell that the session is gone.
A look at the socket, four times in each `check_interval`, finds a connection that was closed. A
question in each interval finds one that gives no answer. While a request waits in the server,
another session asks about it.
"""

from time import monotonic

import anyio

from .failures import DisconnectedError
from .session import Session
from .signals import Signal
from .site import Site

__all__ = ["Keeper"]

#: Seconds between two attempts to call a request off: one that comes early is ignored.
AGAIN = 0.02

#: Part of the interval after which it asks, and for which it waits for the answer. With the
#: quarter of an interval between two looks both together stay below two intervals.
PATIENCE = 0.75


class Keeper:
    """Keeps one site's session, until it is cancelled."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.interval = site.spec.terms.check_interval
        self.answered = monotonic()
        self.aide: Session | None = None  # asks about a request that waits
        self.asked = 0.0  # when the aide did so

    async def run(self) -> None:
        site = self.site
        try:
            while True:
                with anyio.move_on_after(self.interval / 4):
                    await site.call.wait()
                site.call = Signal(site.loop)
                session = site.session
                if session is not None:
                    await self._look_after(session)
        finally:
            self._dismiss()

    async def _look_after(self, session: Session) -> None:
        site = self.site
        if session.dead:
            if session.held and not session.lock.locked():  # a task that uses it hears of it
                site.lose()
            return
        if site.taking:
            if not site.queue:
                await self._call_off(session)
            elif monotonic() - max(site.taking, self.asked) > self.interval:
                await self._ask_about(session)
            return
        self._dismiss()
        if session.held and not session.lock.locked():
            await self._check(session)
        else:
            self.answered = monotonic()

    # ---- while it is held --------------------------------------------------------------------

    async def _check(self, session: Session) -> None:
        site = self.site
        if not session.wire.look():
            site.lose()
            return
        if monotonic() - self.answered < PATIENCE * self.interval:
            return
        try:
            with anyio.move_on_after(PATIENCE * self.interval):
                await session.probe()
                self.answered = monotonic()
        except DisconnectedError:
            pass
        if session.dead and site.session is session:
            site.lose()

    # ---- while it waits ----------------------------------------------------------------------

    async def _call_off(self, session: Session) -> None:
        """Have the server end a request that nobody waits for any more."""
        site, since = self.site, self.site.taking
        give_up = monotonic() + 2 * self.interval
        while site.taking == since and not site.queue:
            asked = False
            with anyio.move_on_after(self.interval):
                asked = await session.call_off()
            if not asked or monotonic() > give_up:  # what was half asked might stop a store later
                session.wire.cut()
                return
            site.call = Signal(site.loop)
            with anyio.move_on_after(AGAIN):
                await site.call.wait()

    async def _ask_about(self, session: Session) -> None:
        """End the session if the server does not work for it, or does not answer."""
        site, since = self.site, self.site.taking
        waits = False
        try:
            with anyio.move_on_after(max(1.0, self.interval)):
                if self.aide is None or self.aide.dead:
                    self._dismiss()
                    self.aide = await site.connect()
                waits = await _waits(self.aide, session)
                if not waits and site.taking == since:  # was it granted just now?
                    await anyio.sleep(self.interval / 4)
        except (DisconnectedError, OSError):
            pass
        self.asked = monotonic()
        if not waits and site.taking == since:
            session.wire.cut()

    def _dismiss(self) -> None:
        aide, self.aide = self.aide, None
        self.asked = 0.0
        if aide is not None:
            aide.close()


async def _waits(aide: Session, session: Session) -> bool:
    found = await aide.ask(
        "ask about a session",
        "SELECT 1 FROM pg_stat_activity WHERE pid = $1::int "
        "AND backend_start = $2::timestamptz AND state = 'active'",
        b"%d" % session.pid,
        session.started,
    )
    return bool(found.ntuples)
