"""The connection string as libpq gets it: names resolved without blocking, keepalives set."""

import ipaddress
import math
import os
import socket

import anyio

from .address import Terms
from .failures import DisconnectedError

__all__ = ["prepare", "read"]


def read(url: str) -> dict[str, str]:
    """Split an address into libpq's parameters.

    Raises:
        ValueError: it makes no sense; the message does not quote it.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        found = conninfo_to_dict(url)
    except psycopg.Error:
        raise ValueError(
            "the address cannot be read: it must look like postgresql://user@host:5432/database#name"
            ", with %40 for '@', %2F for '/' and %23 for '#' in a password"
        ) from None
    return {key: str(value) for key, value in found.items() if value is not None}


async def prepare(parameters: dict[str, str], terms: Terms) -> bytes:
    """The string for libpq, with what this package sets unless the address does."""
    from psycopg.conninfo import make_conninfo

    seconds = max(1, math.ceil(terms.check_interval))
    ours = {
        "keepalives": "1",
        "keepalives_idle": str(seconds),
        "keepalives_interval": str(seconds),
        "keepalives_count": "2",
        "tcp_user_timeout": str(2000 * seconds),
        "fallback_application_name": "shm_async",
        "client_encoding": "UTF8",
    }
    return make_conninfo(**{**ours, **parameters, **await _resolved(parameters)}).encode()


async def _resolved(parameters: dict[str, str]) -> dict[str, str]:
    """The addresses of a host that is a name: libpq itself would block the loop to resolve it."""
    host = parameters.get("host") or os.environ.get("PGHOST", "")
    given = parameters.get("hostaddr") or os.environ.get("PGHOSTADDR")
    if not host or given or "," in host or host[0] in "/@" or _is_address(host):
        return {}
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DisconnectedError(
            f"the database cannot be reached: host {host!r} has no address: {error.strerror}"
        ) from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    return {"host": ",".join([host] * len(addresses)), "hostaddr": ",".join(addresses)}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
