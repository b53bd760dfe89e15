"""The holds of regions in PostgreSQL: what `read_lock`, `write_lock` and `transaction` return."""

from collections.abc import Awaitable, Callable
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import anyio
import anyio.lowlevel

from .._memory.elements import numpy_array, typed_view
from ..errors import LockLostError, LockTimeoutError
from .entrances import Entrances
from .portal import portal
from .site import Site
from .ticket import Event, Ticket

if TYPE_CHECKING:
    import numpy

__all__ = ["PostgresHold"]

T = TypeVar("T")


class PostgresHold:
    """A read or write lock of a region in PostgreSQL, before, while and after it is held.

    Use it as ``async with hold as view``, as ``with hold as view`` in a thread, or through the
    explicit calls. A writer's view is a private copy, made at the grant, which the clean end of
    the block stores; after an exception, a cancellation or a crash nothing is stored. A
    reader's view is a read-only copy of the moment of the grant, and nobody writes while it is
    held. Not to be used twice at once.

    Writers of one process that queue run one after another and are stored together, see
    docs/one-host.md: a block may have seen changes of such a group that then failed. A forked
    child holds nothing.
    """

    __module__ = "shm_async.postgresql"

    __slots__ = (
        "_entrances",
        "_held",
        "_scope",
        "_site",
        "_ticket",
        "_timeout",
        "_view",
        "exclusive",
    )

    # Invariant: _held <=> _view is a view of _ticket's data; _site is where it is, or was, held.
    # _ticket is kept afterwards, for `fence` and `lost`.

    def __init__(self, entrances: Any, timeout: float | None, exclusive: bool) -> None:
        self._entrances: Entrances = entrances  # Any above: users make no holds
        self._timeout = timeout
        self.exclusive: bool = exclusive
        self._site: Site | None = None
        self._ticket: Ticket | None = None
        self._view: memoryview | None = None
        self._scope: anyio.CancelScope | None = None
        self._held = False

    # ---- in coroutines --------------------------------------------------------------------

    async def acquire(self) -> memoryview:
        """Wait for the lock in the event loop and return `view`. Cancellable: nothing is left.

        Deadlines come from cancel scopes. When the connection breaks, it connects and queues
        again; without a deadline for ``connect_timeout`` seconds.

        Raises:
            RegionServerError: the server cannot be reached.
            RegionNotFoundError: it was unlinked.
            RegionClosedError, RuntimeError, PermissionError, RegionFormatError: nothing is held.
        """
        if self._timeout is not None:
            raise TypeError(
                "timeout= is for `with`; in a coroutine put `async with` inside "
                "anyio.fail_after(seconds) or asyncio.timeout(seconds)"
            )
        site = self._entrances.here()
        return await self._enter(site, site.owner(), in_thread=False)

    async def _enter(self, site: Site, owner: object, *, in_thread: bool) -> memoryview:
        if self._ticket is not None and not self._ticket.done.is_set():
            raise RuntimeError(
                f"{self!r} is in use: call read_lock() or write_lock() again for another hold"
            )
        ticket = Ticket(
            site.loop,
            exclusive=self.exclusive,
            owner=owner,
            in_thread=in_thread,
            deadline=anyio.current_effective_deadline(),
        )
        self._ticket, self._site = ticket, site
        try:
            await site.acquire(ticket)
        except BaseException:
            ticket.done.set()
            raise
        return self._open()

    async def release_async(self) -> None:
        """Release the lock; waits while a writer's change is stored.

        A cancellation does not stop the store: it is delivered afterwards.

        Raises:
            LockLostError: the lock was lost, and the change is not in.
            RegionServerError: the database could not store.
            RuntimeError: nothing is held.
        """
        await self._leave(clean=True)

    async def _leave(self, *, clean: bool) -> None:
        ticket = self._close()
        await self._place().leave(ticket, clean=clean)

    async def downgrade_async(self) -> None:
        """Store, and turn the write lock into a read lock; nobody writes in between.

        Waits for the database. A cancellation does not stop it: it is delivered afterwards.

        Raises:
            LockLostError, RegionServerError: nothing is held any more.
            RuntimeError: this hold does not write.
        """
        if self._held and not self._current().exclusive:
            raise RuntimeError(f"{self!r} reads already: there is nothing to downgrade")
        ticket = self._close()
        await self._place().leave(ticket, clean=True, share=True)
        self._open()

    async def upgrade(self) -> bool:
        """Turn the read lock into the write lock. True: nobody has stored in between.

        False: what was read may be old: read again. `view` is a new one, writable. A cancelled
        wait leaves nothing held.

        Raises:
            RuntimeError: this hold does not read, or the task would wait for itself.
            LockLostError, RegionClosedError, RegionServerError: nothing is held any more.
        """
        if self._held and self._current().exclusive:
            raise RuntimeError(f"{self!r} has the write lock already")
        site = self._place()
        new = Ticket(
            site.loop,
            exclusive=True,
            owner=self._current().owner,
            in_thread=self._current().in_thread,
            deadline=anyio.current_effective_deadline(),
        )
        site.check_upgrade(self._current())
        old = self._close()
        new.on_lost = old.on_lost
        self._ticket = new
        try:
            kept = await site.upgrade(old, new)
        except BaseException:
            new.done.set()
            raise
        self._open()
        return kept

    async def __aenter__(self) -> memoryview:
        view = await self.acquire()
        if self._entrances.spec.terms.on_lost == "cancel":
            scope = self._scope = anyio.CancelScope()
            scope.__enter__()
            ticket = self._current()
            ticket.on_lost = scope
            if ticket.lost:
                scope.cancel()
        return view

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        scope, self._scope = self._scope, None
        cancelled = False
        if scope is not None:
            self._current().on_lost = None
            cancelled = bool(scope.__exit__(kind, error, traceback)) and kind is not None
        if self._held:
            await self._leave(clean=kind is None)
        if cancelled:
            raise self._lost_error() from None
        return None

    # ---- in threads -----------------------------------------------------------------------

    def acquire_blocking(self, timeout: float | None = None) -> memoryview:
        """Block the calling thread until the lock is granted, and return `view`.

        Not for event loops: it stops them. Ctrl-C ends the wait, and leaves nothing.

        Args:
            timeout: seconds; None means the one given to ``read_lock`` or ``write_lock``.

        Raises:
            LockTimeoutError: it was not free in time. And as for `acquire`.
        """
        seconds = self._timeout if timeout is None else timeout
        site = self._entrances.of_threads()
        owner = ("thread", get_ident())

        async def enter() -> memoryview:
            try:
                with anyio.fail_after(seconds):
                    return await self._enter(site, owner, in_thread=True)
            except TimeoutError as error:
                if isinstance(error, LockTimeoutError):
                    raise
                raise self._too_late(seconds) from None

        try:
            return portal.call(enter)
        except BaseException:
            if self._held:
                portal.call(lambda: self._leave(clean=False))
            raise

    def _too_late(self, seconds: float | None) -> LockTimeoutError:
        kind = "write" if self.exclusive else "read"
        name = self._entrances.spec.name
        return LockTimeoutError(f"the {kind} lock of region {name!r} was not free in {seconds} s")

    def upgrade_blocking(self, timeout: float | None = None) -> bool:
        """Do what `upgrade` does, in a lock that a thread holds. It blocks.

        Args:
            timeout: seconds; None means the one given to ``read_lock``.

        Raises:
            LockTimeoutError: nothing is held any more. And as for `upgrade`.
        """
        seconds = self._timeout if timeout is None else timeout

        async def upgrade() -> bool:
            try:
                with anyio.fail_after(seconds):
                    return await self.upgrade()
            except TimeoutError:
                raise self._too_late(seconds) from None

        return self._in_thread("upgrade", upgrade)

    def release(self) -> None:
        """Do what `release_async` does, for the lock of a thread. It blocks.

        Raises:
            RuntimeError: it belongs to an event loop. And as for `release_async`.
        """
        self._in_thread("release", self.release_async)

    def downgrade(self) -> None:
        """Do what `downgrade_async` does, for the lock of a thread. It blocks.

        Raises:
            RuntimeError: it belongs to an event loop. And as for `downgrade_async`.
        """
        self._in_thread("downgrade", self.downgrade_async)

    def _in_thread(self, doing: str, function: Callable[[], Awaitable[T]]) -> T:
        if self._site is not None and not self._entrances.serves_threads(self._site):
            instead = "upgrade()" if doing == "upgrade" else f"{doing}_async()"
            raise RuntimeError(
                f"{self!r} belongs to an event loop, and to {doing} it asks the database: "
                f"await hold.{instead}"
            )
        if self._ticket is None:
            raise self._not_held()
        return portal.call(function)

    def __enter__(self) -> memoryview:
        return self.acquire_blocking()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._held:
            portal.call(lambda: self._leave(clean=kind is None))

    # ---- facts ------------------------------------------------------------------------------

    @property
    def view(self) -> memoryview:
        """The copy, as elements; read-only for readers.

        Raises:
            RuntimeError: nothing is held.
        """
        if self._view is None:
            raise self._not_held()
        return self._view

    def numpy(self) -> "numpy.ndarray[Any, Any]":
        """`view` as a NumPy array, without another copy. Never blocks.

        Raises:
            RuntimeError: nothing is held.
            ImportError: NumPy is not installed.
        """
        return numpy_array(self.view)

    @property
    def lost(self) -> Event:
        """An event that is set when the lock is lost, within 2 x ``check_interval``.

        An anyio.Event in coroutines, a threading.Event in threads.
        """
        return self._current().event_of_loss()

    @property
    def fence(self) -> int:
        """The fencing token of the last write lock. It rises with each block that writes.

        Hand it to whatever the block changes outside, which then refuses lower ones. 0 for
        readers.
        """
        return self._current().fence

    # ---- parts ------------------------------------------------------------------------------

    def _current(self) -> Ticket:
        if self._ticket is None:
            raise self._not_held()
        return self._ticket

    def _place(self) -> Site:
        if self._site is None:
            raise self._not_held()
        return self._site

    def _open(self) -> memoryview:
        spec = self._entrances.spec
        self._view = typed_view(memoryview(self._current().data), spec.dtype, spec.shape)
        self._held = True
        return self._view

    def _close(self) -> Ticket:
        """End the view; the ticket is for who ends its block."""
        if not self._held:
            raise self._not_held()
        self._held = False
        view, self._view = self._view, None
        try:
            if view is not None:
                view.release()
        except BufferError:
            pass  # an array was made from it: stale from now on
        return self._current()

    def _lost_error(self) -> LockLostError:
        return self._current().lost_error(self._entrances.spec.name, committed=False)

    def _not_held(self) -> RuntimeError:
        return RuntimeError(
            f"{self!r} is not held: acquire it first; if you called acquire(), you forgot `await` "
            "(a thread calls acquire_blocking())"
        )

    def _state(self) -> str:
        if self._held:
            return "writing" if self._current().exclusive else "reading"
        waiting = self._ticket is not None and not self._ticket.done.is_set()
        return "waiting" if waiting else "free"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled: ask its region for another")

    def __repr__(self) -> str:
        return f"<PostgresHold of {self._entrances.spec.name!r}, {self._state()}>"
