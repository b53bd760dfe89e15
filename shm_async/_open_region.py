"""`open_region`: a region by its address, in this host's memory or beyond."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._forks import importing
from ._shared_region import SharedRegion

if TYPE_CHECKING:
    from ._memory.elements import DTypeLike

__all__ = ["open_region"]

#: What Region.open has, beside the arguments of open_region.
LOCAL_OPTIONS = (
    "follow",
    "group",
    "if_unlinked",
    "layout",
    "lock_memory",
    "mode",
    "on_owner_death",
    "owner",
    "reserve",
    "unlink",
    "user",
)


def open_region(
    address: str | int,
    length: int | None = None,
    *,
    dtype: "DTypeLike" = "uint8",
    shape: Sequence[int] | None = None,
    **options: Any,
) -> SharedRegion:
    """Open a region by its address: create it, or attach to it if it exists.

    Blocks no longer than ``Region.open``, and not at all for an address beyond this host.

    Args:
        address: a name, or the key of a System V segment: a region in this host's memory, as
            ``Region.open`` makes it. ``postgresql://user@host/database#name``: a region in that
            database; opening does no I/O, entering it (``async with region:``) connects. Needs
            the extra ``shm_async[postgresql]``; see docs/one-host.md.
        length: number of elements.
        dtype: element type, as for ``Region.open``.
        shape: elements in each dimension, instead of `length`.
        options: in memory, those of ``Region.open``. In PostgreSQL: ``schema="shm_async"``, where
            the tables are; ``check_interval=2.0`` seconds, a lost lock is noticed within twice
            that; ``on_lost="raise"`` or ``"cancel"``; ``connect_timeout=30.0`` seconds, for which
            a wait without a deadline tries to reach the server; ``pooler="session"``, a promise
            that a pooler keeps sessions whole; ``max_bytes=67108864``.

    Raises:
        ValueError: an unknown scheme, no name in the address, a bad name or option.
        TypeError: an option that this home does not have; the message says what to do instead.
        ImportError: psycopg is not installed.
        RegionSizeError: it is larger than ``max_bytes``.
    """
    if isinstance(address, str) and "://" in address:
        return _open_beyond(address, length, dtype=dtype, shape=shape, options=options)
    for option in options:
        if option not in LOCAL_OPTIONS:
            raise TypeError(
                f"a region in this host's memory has no option {option}=: it has "
                f"{', '.join(LOCAL_OPTIONS)}"
            )
    from ._region import Region

    return Region.open(address, length, dtype=dtype, shape=shape, **options)


open_region.__module__ = "shm_async"


def _open_beyond(address: str, length: int | None, **more: Any) -> SharedRegion:
    scheme = address.partition("://")[0]
    if scheme not in HOMES:
        raise ValueError(
            f"no region lies at an address that begins with {scheme}://: use a name, for this "
            f"host's memory, or {', '.join(f'{each}://' for each in HOMES)}"
        )
    return HOMES[scheme](address, length, **more)


def _open_in_postgresql(address: str, length: int | None, **more: Any) -> SharedRegion:
    try:
        with importing:
            from ._postgresql.opening import open_region
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise ImportError(
            "regions in PostgreSQL need psycopg: pip install 'shm_async[postgresql]'"
        ) from None
    return open_region(address, length, **more)


#: What opens the addresses of each scheme. One more home of regions is one more function here.
HOMES = {"postgres": _open_in_postgresql, "postgresql": _open_in_postgresql}
