"""Every exception of the package, each saying when it is raised.

Each also inherits the nearest builtin, so that code which knows nothing of this
package can catch it. Those that are ``OSError`` carry ``errno`` and, as
``filename``, the region's name.
"""

__all__ = [
    "LockTimeoutError",
    "OwnerDiedError",
    "RegionClosedError",
    "RegionExistsError",
    "RegionFormatError",
    "RegionNotFoundError",
    "RegionReplacedError",
    "RegionSizeError",
    "ShmError",
    "WouldBlockError",
]


class ShmError(Exception):
    """Base of every exception that is this package's own."""


class RegionExistsError(ShmError, FileExistsError):
    """Raised by ``create`` when the name is taken. What has the name is untouched."""


class RegionNotFoundError(ShmError, FileNotFoundError):
    """Raised by ``attach`` and ``unlink`` when the name leads to nothing, or no longer to us.

    With ``if_unlinked="raise"`` by locks and snapshots, too; the lock is not held.
    """


class RegionReplacedError(ShmError, OSError):
    """Raised by locks and snapshots when ``resize`` has put another one in the region's place.

    The lock is not held. Attach again, or use ``follow=True``.
    """


class RegionClosedError(ShmError, ValueError):
    """Raised by every use of a region after its ``close``, and by waits that were going on."""


class RegionFormatError(ShmError, ValueError):
    """Raised when what the name leads to is not the region that was asked for.

    It is no shared-memory object at all, its control page is damaged, or its
    element type or layout is another one.
    """


class RegionSizeError(ShmError, ValueError):
    """Raised when an object is too small: on attach, or when a lock is granted.

    At a grant it means that somebody truncated the object; the lock is not held.
    """


class OwnerDiedError(ShmError, RuntimeError):
    """Raised when a lock is granted and the last writer never left: it may have died half-way.

    The lock is not held. See ``write_lock(recover=True)`` and ``on_owner_death=``.

    Attributes:
        pid: the process that wrote last, as its own pid namespace counts.
        start: when that process began, in clock ticks after boot; 0 where that is not known.
    """

    pid: int = 0
    start: int = 0


class LockTimeoutError(ShmError, TimeoutError):
    """Raised when ``timeout`` seconds passed before a thread got the lock."""


class WouldBlockError(ShmError, BlockingIOError):
    """Raised by ``acquire_nowait`` and ``upgrade_nowait`` when it takes a wait.

    Attributes:
        still_held: whether the read lock that was to be upgraded is still held.
    """

    still_held: bool = False
