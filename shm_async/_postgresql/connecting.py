"""Connections for a region: opened in time, and rid of what earlier ones have left."""

import anyio

from .failures import DisconnectedError
from .rows import Spec
from .session import Session

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Stale", "connect"]

#: Seconds between two attempts to connect, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5

#: Sessions that may live on in the server: the pid of each, and when it began.
Stale = list[tuple[int, bytes]]


async def connect(spec: Spec, stale: Stale, within: float | None = None) -> Session:
    """Open a session, and end those of ours that the server may take for alive.

    Args:
        spec: the region.
        stale: those sessions.
        within: seconds for this attempt; None: twice the interval of checks, at least 1.

    Raises:
        DisconnectedError: also if it took too long.
    """
    terms = spec.terms
    within = max(1.0, 2 * terms.check_interval) if within is None else within
    with anyio.move_on_after(min(terms.connect_timeout, within)):
        session = await Session.open(spec.parameters, terms)
        try:
            await _end_stale(session, stale)
        except BaseException:
            session.close()
            raise
        return session
    raise DisconnectedError("the database cannot be reached: it does not answer in time")


async def _end_stale(session: Session, stale: Stale) -> None:
    while stale:
        pid, started = stale[-1]
        await session.ask(
            "end a session of ours",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid = $1::int AND backend_start = $2::timestamptz",
            b"%d" % pid,
            started,
        )
        stale.pop()
