"""Who has entered a region: its sites, by event loop, and the loop that serves threads."""

import threading
from contextlib import suppress

import anyio
import anyio.lowlevel

from .._forks import undivided
from .._lock.loops import adapt
from ..errors import RegionClosedError
from .entry import Entry
from .portal import portal
from .rows import Spec
from .site import Site
from .tally import Tally

__all__ = ["Entrances", "refuse_in_a_loop"]


class Entrances:
    """The sites of one region. It is closed when all who entered have left.

    Invariant: `_entries` has the loops that have entered, more often than they have left.
    `revision` is the last one that is known here; None: none is.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.tally = Tally(spec.name)
        self.revision: int | None = None
        self.closed = False
        self._entries: dict[object, Entry] = {}
        self._threads: object = None  # the loop of `with`

    # ---- enter and leave --------------------------------------------------------------------

    async def enter(self) -> None:
        """Connect, unless this loop has. Raises what that raises."""
        self._check_open()
        native = _loop()
        with undivided:
            entry = self._entries.get(native)
            if entry is None:
                entry = self._entries[native] = Entry(Site(self.spec, self.tally, self._told))
            entry.count += 1
        try:
            async with entry.ready:
                if not entry.begun:
                    await entry.begin()
        except BaseException:
            self._count_down(native, entry)
            raise

    async def leave(self, owner: object) -> None:
        """Take back one `enter`; the last one of the loop ends its connections."""
        native = _loop()
        entry = self._entries.get(native)
        if entry is None or not self._count_down(native, entry):
            return
        if not self._entries:
            self.closed = True
        await entry.end(owner)

    def enter_as_thread(self) -> None:
        """Block until the loop of threads has entered."""
        refuse_in_a_loop("with region", "async with region")

        async def enter() -> None:
            await self.enter()
            self._threads = _loop()

        portal.open()
        try:
            portal.call(enter)
        except BaseException:
            portal.close()
            raise

    def leave_as_thread(self) -> None:
        """Take back one `enter_as_thread`."""
        owner = ("thread", threading.get_ident())
        try:
            portal.call(lambda: self.leave(owner))
        finally:
            portal.close()

    def _count_down(self, native: object, entry: Entry) -> bool:
        """Whether the last one of this loop has left."""
        with undivided:
            entry.count -= 1
            if entry.count == 0:
                self._entries.pop(native, None)
            return entry.count == 0

    # ---- close ------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse all that waits or comes, in every loop. Never blocks."""
        self.closed = True
        here = _loop_or_none()
        for native, entry in list(self._entries.items()):
            if native is here:
                entry.site.close()
            else:
                with suppress(RuntimeError):  # that loop is over
                    adapt(native).call_from_thread(entry.site.close)

    async def aclose(self) -> None:
        """Close, and end what this loop has."""
        self.close()
        entry = self._entries.get(_loop())
        if entry is not None:
            await entry.end(anyio.get_current_task().id)

    # ---- sites ------------------------------------------------------------------------------

    def here(self) -> Site:
        """The site of the running event loop. Raises RuntimeError: it was not entered there."""
        self._check_open()
        entry = self._entries.get(_loop())
        if entry is None or not entry.begun:
            raise RuntimeError(
                f"region {self.spec.name!r} was not entered in this event loop: use it inside "
                "`async with region:`, where its connection and its checks live"
            )
        return entry.site

    def of_threads(self) -> Site:
        """The site that `with` blocks use. Raises RuntimeError: no thread has entered it."""
        self._check_open()
        refuse_in_a_loop("with", "async with")
        entry = self._entries.get(self._threads)
        if entry is None or not entry.begun:
            raise RuntimeError(
                f"region {self.spec.name!r} was not entered for threads: use it inside "
                "`with region:`, where its connection and its checks live"
            )
        return entry.site

    def serves_threads(self, site: Site) -> bool:
        """Whether `with` blocks use that site."""
        entry = self._entries.get(self._threads)
        return entry is not None and entry.site is site and _loop_or_none() is not self._threads

    def refuse_a_holder(self) -> None:
        """Raise RuntimeError if the running task holds a lock of the region."""
        entry = self._entries.get(_loop())
        if entry is not None and entry.site.has(anyio.get_current_task().id):
            raise RuntimeError(
                f"this task holds a lock of region {self.spec.name!r} and would wait for itself: "
                "release it first"
            )

    def _check_open(self) -> None:
        if self.closed:
            raise RegionClosedError(f"region {self.spec.name!r} is closed")

    def _told(self, revision: int, exactly: bool) -> bool:
        """Take note of a revision; True: the region has gone back, as a failover lost stores."""
        known = self.revision
        back = known is not None and revision < known
        if exactly or not back:
            self.revision = revision
        return exactly and back


def _loop() -> object:
    return anyio.lowlevel.current_token().native_token


def _loop_or_none() -> object:
    try:
        return _loop()
    except RuntimeError:
        return None


def refuse_in_a_loop(what: str, instead: str) -> None:
    """Raise RuntimeError in the thread of an event loop, which `what` would stop."""
    if _loop_or_none() is not None:
        raise RuntimeError(
            f"`{what}` would stop the event loop while it waits for the database: use `{instead}`"
        )
