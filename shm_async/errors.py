"""Every exception of the package, each with the cases in which it is raised.

Each also inherits the nearest builtin, so that code that does not know this
package can catch it. Each ``OSError`` has ``errno`` and, as ``filename``, the
region's name.
"""

__all__ = [
    "LockLostError",
    "LockTimeoutError",
    "OwnerDiedError",
    "RegionClosedError",
    "RegionExistsError",
    "RegionFormatError",
    "RegionNotFoundError",
    "RegionReplacedError",
    "RegionServerError",
    "RegionSizeError",
    "ShmError",
    "WouldBlockError",
]


class ShmError(Exception):
    """The base of all exceptions of this package."""

    __module__ = "shm_async"


class RegionExistsError(ShmError, FileExistsError):
    """Raised by ``create`` when the name is taken. The object with that name is untouched."""

    __module__ = "shm_async"


class RegionNotFoundError(ShmError, FileNotFoundError):
    """Raised by ``attach`` and ``unlink`` when the name leads to nothing, or to another object.

    With ``if_unlinked="raise"`` locks and snapshots raise it, too; the lock is not held.
    """

    __module__ = "shm_async"


class RegionReplacedError(ShmError, OSError):
    """Raised by locks and snapshots when ``resize`` has put another object in the region's place.

    The lock is not held. Attach again, or use ``follow=True``. Also raised by `Region.wait_changed`
    and `Region.changes` when the name was unlinked and leads to a new region.
    """

    __module__ = "shm_async"


class RegionClosedError(ShmError, ValueError):
    """Raised by every use of a region after its ``close``, and by waits during the ``close``."""

    __module__ = "shm_async"


class RegionFormatError(ShmError, ValueError):
    """Raised when the name leads to another object than the requested region.

    The object is not a shared-memory object at all, its control page is damaged, or
    its element type or layout differs.
    """

    __module__ = "shm_async"


class RegionSizeError(ShmError, ValueError):
    """Raised when an object is too small: on attach, or when a lock is granted.

    At a grant it means that a process truncated the object; the lock is not held.
    """

    __module__ = "shm_async"


class OwnerDiedError(ShmError, RuntimeError):
    """Raised when a lock is granted and the last writer did not end its write: it may have died.

    The lock is not held. See ``write_lock(recover=True)`` and ``on_owner_death=``.

    Attributes:
        pid: the process that wrote last, as its own pid namespace counts.
        start: the time when that process began, in clock ticks after boot; 0: not known.
        namespace: that pid namespace (the inode of ``/proc/PID/ns/pid``); 0: not known.
    """

    __module__ = "shm_async"

    pid: int = 0
    start: int = 0
    namespace: int = 0


class LockTimeoutError(ShmError, TimeoutError):
    """Raised when ``timeout`` seconds passed before a thread got the lock."""

    __module__ = "shm_async"


class WouldBlockError(ShmError, BlockingIOError):
    """Raised by ``acquire_nowait`` and ``upgrade_nowait`` when they would have to wait.

    Attributes:
        still_held: whether a failed upgrade still holds its read lock.
    """

    __module__ = "shm_async"

    still_held: bool = False


class RegionServerError(ShmError, ConnectionError):
    """Raised when the server of a region cannot be reached, or cannot serve the request.

    Only a region beyond one host has a server: see `open_region`.
    """

    __module__ = "shm_async"


class LockLostError(ShmError, RuntimeError):
    """Raised at the end of a block whose lock was lost, if its change is not known to be stored.

    Only a region beyond one host loses locks: its server restarted, or the network was cut. With
    ``on_lost="cancel"`` the block is cancelled at once and then raises this, a reader's too.

    Attributes:
        committed: False: the change is not stored. None: the server could not be asked in time.
        fence: the fencing token of the block; 0 for a reader.
    """

    __module__ = "shm_async"

    committed: bool | None = False
    fence: int = 0
