"""Where a region in PostgreSQL lies, and on which terms: read from an address and options."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from .schema import check_schema

__all__ = ["Address", "OnLost", "Terms", "parse", "terms_of"]

OnLost = Literal["raise", "cancel"]
Pooler = Literal["session"] | None

#: Options of regions in shared memory -> what to do instead.
LOCAL_ONLY = {
    "buffer": "take a lock and use its view, which is a copy",
    "follow": "nothing replaces a region here, so leave it out",
    "group": "grant the rights to a role of the database",
    "if_unlinked": "a lock of a removed region always raises RegionNotFoundError, so leave it out",
    "layout": "leave it out, there is one layout",
    "lock_memory": "leave it out, the data lies in the server",
    "mode": "grant the rights to a role of the database",
    "on_owner_death": "leave it out, a writer that dies stores nothing",
    "owner": "grant the rights to a role of the database",
    "readonly": "use a role that may only read, and read_lock()",
    "reserve": "leave it out, the server reserves the room",
    "resize": "unlink the region and open one of another length",
    "unlink": "call unlink_async() or unlink() when the region is to go",
    "user": "grant the rights to a role of the database",
}


@dataclass(frozen=True, slots=True)
class Address:
    """A database and the name of a region in it."""

    conninfo: str = field(repr=False)  # may hold a password: never shown
    name: str


@dataclass(frozen=True, slots=True)
class Terms:
    """The options of `open_region` for an address of PostgreSQL."""

    schema: str = "shm_async"
    check_interval: float = 2.0  # seconds
    connect_timeout: float = 30.0  # seconds
    on_lost: OnLost = "raise"
    pooler: Pooler = None
    max_bytes: int = 64 * 1024 * 1024


def parse(address: str) -> Address:
    """Split ``postgresql://…#name``.

    Raises:
        ValueError: there is no name, or a bad one.
    """
    conninfo, _, fragment = address.partition("#")
    return Address(conninfo, check_name(unquote(fragment)))


def check_name(name: str) -> str:
    """Return `name`, which follows the rules for names of regions in shared memory."""
    if not name:
        raise ValueError(
            "the address has no region: write its name behind a '#', "
            "as in postgresql://user@host/database#counters"
        )
    if "/" in name or "\0" in name:  # it may be the rest of a password, so it is not shown
        raise ValueError(
            "the name of the region, behind the '#' of the address, must not contain '/' or NUL; "
            "a '#' in a password is written %23"
        )
    if name in (".", ".."):
        raise ValueError(f"a region must not have the name {name!r}: choose another one")
    if len(name.encode()) > 255:
        raise ValueError(f"region name {name[:20]!r}... is longer than 255 bytes")
    return name


def terms_of(options: dict[str, Any]) -> Terms:
    """Check the options.

    Raises:
        TypeError: an option that regions in PostgreSQL do not have. ValueError: a bad value.
    """
    for option in options:
        if option in LOCAL_ONLY:
            raise TypeError(f"a region in PostgreSQL has no option {option}=: {LOCAL_ONLY[option]}")
        if option not in Terms.__dataclass_fields__:
            known = ", ".join(Terms.__dataclass_fields__)
            raise TypeError(f"a region in PostgreSQL has no option {option}=: it has {known}")
    terms = Terms(**options)
    check_schema(terms.schema)
    _check_seconds("check_interval", terms.check_interval, 0.05)
    _check_seconds("connect_timeout", terms.connect_timeout, 0.05)
    if terms.on_lost not in ("raise", "cancel"):
        raise ValueError(f"on_lost must be 'raise' or 'cancel', not {terms.on_lost!r}")
    if terms.pooler not in (None, "session"):
        raise ValueError(f"pooler must be None or 'session', not {terms.pooler!r}")
    if isinstance(terms.max_bytes, bool) or not isinstance(terms.max_bytes, int):
        raise TypeError(f"max_bytes must be an int, not {type(terms.max_bytes).__name__}")
    return terms


def _check_seconds(option: str, seconds: float, least: float) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{option} must be seconds, not {type(seconds).__name__}")
    if not least <= seconds < math.inf:
        raise ValueError(f"{option} must be at least {least} seconds and finite, not {seconds}")
