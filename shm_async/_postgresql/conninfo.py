"""The connection string as libpq gets it: names resolved without blocking, keepalives set."""

import ipaddress
import math
import os

import anyio

from .address import Terms
from .failures import DisconnectedError
from .resolving import Lookup, look_up

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
    """The addresses of the hosts that are names: libpq itself would block the loop to find them.

    They stand where libpq would try them. The names stay beside them, for certificates and
    passwords. A name without an address is left out, if there is another host.
    """
    hosts = _list(parameters.get("host") or os.environ.get("PGHOST"))
    given = _list(parameters.get("hostaddr") or os.environ.get("PGHOSTADDR"))
    given = given or [""] * len(hosts)
    ports = _list(parameters.get("port") or os.environ.get("PGPORT"))
    several = len(ports) > 1
    if len(given) != len(hosts) or (several and len(ports) != len(hosts)):
        return {}  # libpq refuses it, and says why
    wanted = [_is_name(host) and not address for host, address in zip(hosts, given, strict=True)]
    if not any(wanted):
        return {}
    lookups = [look_up(host) if name else None for host, name in zip(hosts, wanted, strict=True)]
    await _until_known([lookup for lookup in lookups if lookup is not None])
    found: list[tuple[str, str, str]] = []
    for host, address, lookup, port in zip(
        hosts, given, lookups, ports if several else [""] * len(hosts), strict=True
    ):
        addresses = [address] if lookup is None else lookup.addresses
        found += [(host, each, port) for each in addresses]
    if not found:
        raise _no_address([lookup for lookup in lookups if lookup is not None])
    columns = [",".join(column) for column in zip(*found, strict=True)]
    names = ("host", "hostaddr", "port") if several else ("host", "hostaddr")
    return dict(zip(names, columns, strict=False))


def _list(text: str | None) -> list[str]:
    return text.split(",") if text else []


async def _until_known(lookups: list[Lookup]) -> None:
    """Wait until all are over, for half of the time that there is: the rest is to connect."""
    left = anyio.current_effective_deadline() - anyio.current_time()
    with anyio.move_on_after(None if math.isinf(left) else left / 2):
        for lookup in lookups:
            await lookup.wait()


def _no_address(lookups: list[Lookup]) -> DisconnectedError:
    reasons = [f"host {lookup.host!r} has no address: {lookup.reason}" for lookup in lookups]
    return DisconnectedError(f"the database cannot be reached: {'; '.join(reasons)}")


def _is_name(host: str) -> bool:
    """Whether libpq would look it up: it is no folder of a socket, and no address."""
    return bool(host) and host[0] not in "/@" and not _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
