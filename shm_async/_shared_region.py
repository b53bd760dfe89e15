"""What a region promises wherever it lies: in this host's memory, or in a database."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._lock.statistics import Statistics

__all__ = ["SharedBlock", "SharedHold", "SharedRegion"]


class SharedBlock(Protocol):
    """A lock that is taken by ``async with`` or ``with``, which yield a memoryview."""

    async def __aenter__(self) -> memoryview: ...
    def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Any: ...
    def __enter__(self) -> memoryview: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


class SharedHold(SharedBlock, Protocol):
    """A read or write lock of a `SharedRegion`: what the holds of all homes have.

    A forked child holds nothing. For types; not for isinstance.
    """

    @property
    def view(self) -> memoryview:
        """The data as elements, the memory itself or a copy. Read-only for readers."""
        ...

    async def acquire(self) -> memoryview:
        """Wait for the lock in the event loop and return `view`. Cancellable.

        Raises:
            RegionClosedError, RuntimeError: nothing is held.
            RegionServerError: where there is a server.
        """
        ...

    def acquire_blocking(self, timeout: float | None = None) -> memoryview:
        """Block the calling thread until the lock is granted, and return `view`.

        Args:
            timeout: seconds; None means the one given to ``read_lock`` or ``write_lock``.

        Raises:
            LockTimeoutError: it was not free in time. And as for `acquire`.
        """
        ...

    def release(self) -> None:
        """Release the lock of a thread; a region beyond this host blocks while it stores.

        Raises:
            RuntimeError: not held, or called in a coroutine and the home has to store: use
                `release_async` there.
            LockLostError: the change is not stored.
        """
        ...

    async def release_async(self) -> None:
        """Release the lock in a coroutine, in either home. Waits while a change is stored.

        A cancellation is delivered after that.

        Raises:
            RuntimeError: not held.
            LockLostError: the change is not stored.
        """
        ...

    def upgrade(self) -> Any:
        """Turn the read lock into the write lock: ``await hold.upgrade()``. Waits; cancellable.

        True: nobody wrote in between. False: read again, what was read may be old.

        Raises:
            RuntimeError: this hold does not read.
        """
        ...

    def upgrade_blocking(self, timeout: float | None = None) -> bool:
        """Do what `upgrade` does, in a lock of a thread. It blocks.

        Args:
            timeout: seconds; None means the one given to ``read_lock``.

        Raises:
            LockTimeoutError: nothing is held any more. And as for `upgrade`.
        """
        ...

    def downgrade(self) -> None:
        """Turn the write lock of a thread into a read lock; blocks where a change is stored.

        Raises:
            RuntimeError: this hold does not write, or `downgrade_async` is to be used.
        """
        ...

    async def downgrade_async(self) -> None:
        """Turn the write lock into a read lock in a coroutine. Waits while a change is stored.

        A cancellation is delivered after that.

        Raises:
            RuntimeError: this hold does not write.
            LockLostError: the change is not stored.
        """
        ...


class SharedRegion(Protocol):
    """What a region promises wherever it lies; `open_region` returns one.

    Enter it before you use it: ``async with region:`` in coroutines, ``with region:`` in threads
    and scripts. The block of a lock has the memory itself, or a copy that its clean end stores.
    `transaction` is all or nothing in both homes. A forked child holds no lock; beyond this host
    it has to enter the region itself. For types; not for isinstance.
    """

    @property
    def name(self) -> str:
        """Its name, without what leads to its home."""
        ...

    @property
    def dtype(self) -> str:
        """Name of the element type."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        ...

    @property
    def generation(self) -> int | None:
        """How far writing has come, as far as is known here; None where nobody counts."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        ...

    def __len__(self) -> int: ...

    def read_lock(self, *, timeout: float | None = None) -> SharedHold:
        """A read lock for ``async with`` or ``with``: many readers, no writer. Never blocks.

        Args:
            timeout: seconds after which ``with`` gives up.

        Raises:
            RegionClosedError: here, or when it is acquired.
        """
        ...

    def write_lock(self, *, timeout: float | None = None) -> SharedHold:
        """The write lock for ``async with`` or ``with``: nobody else is inside. Never blocks.

        Arguments and errors are those of `read_lock`.
        """
        ...

    def transaction(self, *, timeout: float | None = None) -> SharedBlock:
        """The write lock with a private copy, which a clean end writes back. Never blocks.

        Arguments and errors are those of `read_lock`.
        """
        ...

    async def snapshot_async(self) -> bytes:
        """Copy the data as it is at one moment. Waits; cancellable.

        Raises:
            RegionClosedError: it is closed.
            RegionServerError: where there is a server.
        """
        ...

    def changes(self, *, since: int | None = None) -> AsyncIterator[int]:
        """The changes from now on: ``async for generation in region.changes()``. Never blocks.

        Args:
            since: begin with what has changed after this generation.

        Raises:
            RegionClosedError: here, or in a step; and what `wait_changed` raises.
        """
        ...

    async def wait_changed(self, *, since: int | None = None) -> int:
        """Wait until somebody has written, and return the generation by then. Cancellable.

        Args:
            since: return at once if the region has come further than this generation.

        Raises:
            RegionClosedError: also while waiting.
            RuntimeError: the task holds a lock of it.
        """
        ...

    def statistics(self) -> "Statistics":
        """What the locks of this region have done in this process. Never blocks, raises nothing."""
        ...

    def close(self) -> None:
        """Refuse further use; what waits gets RegionClosedError. Never blocks, raises nothing."""
        ...

    async def aclose(self) -> None:
        """Close it, and wait until its connections are gone. A cancellation is delivered later.

        Errors are those of `close`.
        """
        ...

    def unlink(self) -> None:
        """Remove the region, in a thread or script; blocks where that is no local step.

        Raises:
            RegionNotFoundError: there is none.
        """
        ...

    async def unlink_async(self) -> None:
        """Remove the region. Waits where that is no local step; cancellable there.

        Raises:
            RegionNotFoundError: there is none.
        """
        ...

    def __enter__(self) -> "Self": ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    async def __aenter__(self) -> "Self": ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


SharedHold.__module__ = SharedRegion.__module__ = "shm_async"
