"""A region in PostgreSQL: what `open_region` returns for an address of one."""

import copy
import math
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.lowlevel

from .._lock.deadlines import check_timeout
from ..errors import RegionNotFoundError
from .connecting import connect
from .entrances import Entrances, refuse_in_a_loop
from .hold import PostgresHold
from .hub import Hub
from .portal import portal
from .rows import Spec, remove
from .site import Site

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._lock.statistics import Statistics

__all__ = ["PostgresRegion"]


class PostgresRegion:
    """A named block of data in a PostgreSQL database, and its lock.

    To be entered before it is used: ``async with region:`` in coroutines, ``with region:`` in
    threads and scripts; each connects, and creates the region where there is none. Any number of
    tasks, threads and event loops may use it. It is closed when all have left.

    A forked child holds nothing, and has to enter the region itself.
    """

    __module__ = "shm_async.postgresql"

    def __init__(self, spec: Any) -> None:
        self._spec: Spec = spec  # Any above: users make regions by open_region
        self._entrances = Entrances(self._spec)

    # ---- locks ------------------------------------------------------------------------------

    def read_lock(self, *, timeout: float | None = None) -> PostgresHold:
        """A hold that reads: a read-only copy of the moment of the grant. Never blocks.

        Args:
            timeout: seconds after which ``with`` gives up; coroutines use cancel scopes.

        Raises:
            ValueError, TypeError: `timeout` is no number of seconds. The rest when it is acquired.
        """
        return PostgresHold(self._entrances, check_timeout(timeout), exclusive=False)

    def write_lock(self, *, timeout: float | None = None) -> PostgresHold:
        """A hold that writes: a private copy, which a clean end of its block stores. Never blocks.

        Arguments and errors are those of `read_lock`.
        """
        return PostgresHold(self._entrances, check_timeout(timeout), exclusive=True)

    def transaction(self, *, timeout: float | None = None) -> PostgresHold:
        """The same as `write_lock`, which means here what a transaction means. Never blocks.

        Arguments and errors are those of `read_lock`.
        """
        return self.write_lock(timeout=timeout)

    def statistics(self) -> "Statistics":
        """What the locks of this region have done in this process. Never blocks, raises nothing.

        ``kernel_requests`` are those that went to the database.
        """
        return self._entrances.tally.figures()

    # ---- data -------------------------------------------------------------------------------

    async def snapshot_async(self) -> bytes:
        """Read the data as stored last, without a lock; waits for one round trip. Cancellable.

        Raises:
            RegionNotFoundError: it was unlinked.
            RegionServerError: the database could not be reached.
        """
        return await self._snapshot(self._entrances.here())

    def snapshot(self) -> bytes:
        """Do what `snapshot_async` does, in a thread; it blocks. Errors are those of that."""
        site = self._entrances.of_threads()
        return portal.call(lambda: self._snapshot(site))

    async def _snapshot(self, site: Site) -> bytes:
        async with site.beside() as session:
            found = await session.look(site.identity)
        if found is None or found.data is None:
            raise RegionNotFoundError(2, "removed from the database", self.name)
        site.hear(found.revision)
        return found.data

    # ---- changes ----------------------------------------------------------------------------

    async def wait_changed(self, *, since: int | None = None) -> int:
        """Wait until somebody has stored, and return the generation by then. Cancellable.

        Args:
            since: return at once if the region has come further than this generation. None:
                than the one known here now.

        Raises:
            RegionServerError: the database could not be reached for ``connect_timeout`` seconds.
            RuntimeError: the task holds a lock of the region.
            RegionClosedError: also while waiting.
        """
        baseline = self.generation if since is None else _check_since(since)
        site = self._entrances.here()
        await anyio.lowlevel.checkpoint()
        if site.has(anyio.get_current_task().id):
            raise RuntimeError(
                f"this task holds a lock of region {self.name!r}, so nobody can write while it "
                "waits for that: release it first"
            )
        resets = site.resets
        await Hub.of(site).follow(site)
        while self.generation <= baseline and site.resets == resets:
            if site.closing:
                raise site.closed_error()
            if site.trouble is not None:
                raise copy.copy(site.trouble)
            await site.news.wait()
        return self.generation

    def changes(self, *, since: int | None = None) -> AsyncIterator[int]:
        """The generations that it comes to: ``async for generation in region.changes()``.

        What is read after this call, and before the first step, misses nothing. Changes that
        come faster than they are waited for are merged into one; the last is never missed.
        Never blocks; a step waits.

        Args:
            since: begin with what has changed after this generation.

        Raises:
            TypeError: `since` is no int. A step raises what `wait_changed` raises.
        """
        return _Changes(self, self.generation if since is None else _check_since(since))

    # ---- begin and end ----------------------------------------------------------------------

    async def __aenter__(self) -> "Self":
        await self._entrances.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._entrances.leave(anyio.get_current_task().id)

    def __enter__(self) -> "Self":
        self._entrances.enter_as_thread()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entrances.leave_as_thread()

    def close(self) -> None:
        """Refuse further use; waits end with RegionClosedError. Never blocks, raises nothing.

        Its block's end, or `aclose`, ends the connections. Closing twice is fine.
        """
        self._entrances.close()

    async def aclose(self) -> None:
        """Close it, wait for the other holders in this loop, and end its connections.

        A cancellation is delivered once that is done. Raises nothing else.
        """
        await self._entrances.aclose()

    def unlink(self) -> None:
        """Do what `unlink_async` does, in a thread or script; it blocks.

        Errors are those of `unlink_async`.
        """
        refuse_in_a_loop("unlink()", "await region.unlink_async()")
        portal.open()
        try:
            portal.call(self.unlink_async)
        finally:
            portal.close()

    async def unlink_async(self) -> None:
        """Remove the region from the database, under its write lock. Works on a closed one, too.

        Waits for that lock. Cancellable.

        Raises:
            RegionNotFoundError: there is none.
            RegionServerError, PermissionError: the database refuses, or cannot be reached.
            RuntimeError: this task holds a lock of it.
        """
        self._entrances.refuse_a_holder()
        session = await connect(self._spec, [])
        try:
            await remove(session, self._spec)
        finally:
            session.close()

    # ---- facts ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name, the fragment of the address."""
        return self._spec.name

    @property
    def dtype(self) -> str:
        """Name of the element type."""
        return self._spec.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension."""
        return self._spec.shape

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self._spec.nbytes

    @property
    def generation(self) -> int:
        """Twice the number of stores, as far as is known here; always even.

        Known from a grant, a store, a snapshot or a notification. 0 before it is entered.
        """
        return 2 * (self._entrances.revision or 0)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._entrances.closed

    def __len__(self) -> int:
        """Number of elements."""
        return math.prod(self._spec.shape)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: open it again by its address")

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        state = "closed" if self._entrances.closed else "open"
        return f"<PostgresRegion {self.name!r}: {size} x {self.dtype}, {state}>"


class _Changes(AsyncIterator[int]):
    """The changes of a region since a generation. Never ends by itself."""

    __slots__ = ("_region", "_since")

    def __init__(self, region: PostgresRegion, since: int) -> None:
        self._region = region
        self._since = since

    async def __anext__(self) -> int:
        self._since = await self._region.wait_changed(since=self._since)
        return self._since


def _check_since(since: int) -> int:
    if isinstance(since, bool) or not isinstance(since, int):
        raise TypeError(f"since must be a generation, an int, not {type(since).__name__}")
    return since
