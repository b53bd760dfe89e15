"""The row of a region: found, checked, made, removed."""

import struct
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import RegionFormatError, RegionNotFoundError, RegionSizeError
from .address import Terms
from .session import Session

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["Spec", "find_or_create", "remove"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a region is to be, and how its database is reached."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    terms: Terms
    parameters: dict[str, str] = field(repr=False)  # of libpq; may hold a password


async def find_or_create(session: Session, spec: Spec) -> tuple[int, int]:
    """The id of the row and its revision. The data of a new one is zero.

    Raises:
        RegionFormatError: it has another element type, shape or byte order.
        RegionSizeError: it has another size.
    """
    found = await _find(session, spec)
    if not found.ntuples:
        await session.ask(
            "create the region",
            f"INSERT INTO {spec.terms.schema}.regions (name, dtype, shape, byte_order, data) "
            "VALUES ($1, $2, $3::int[], $4, decode(repeat('00', $5::int), 'hex')) "
            "ON CONFLICT (name) DO NOTHING",
            spec.name.encode(),
            spec.dtype.encode(),
            _array(spec.shape),
            sys.byteorder.encode(),
            b"%d" % spec.nbytes,
        )
        found = await _find(session, spec)
    if not found.ntuples:
        raise RegionNotFoundError(2, "removed by somebody while it was opened", spec.name)
    _check(found, spec)
    identity = _number(found, 0, "!i")
    await _forget_old_writers(session, spec, identity)
    return identity, _number(found, 4, "!q")


async def _forget_old_writers(session: Session, spec: Spec, identity: int) -> None:
    """Remove the rows of writers that have long stopped asking whether their store is in.

    They ask within seconds. A role that may only read leaves this to others.
    """
    with suppress(PermissionError):
        await session.ask(
            "forget old writers",
            f"DELETE FROM {spec.terms.schema}.writers "
            "WHERE region = $1::int AND stored_at < now() - interval '1 day'",
            b"%d" % identity,
        )


async def _find(session: Session, spec: Spec) -> "PGresult":
    return await session.ask(
        "read the region",
        "SELECT id, dtype, shape::text, byte_order, revision, octet_length(data) "
        f"FROM {spec.terms.schema}.regions WHERE name = $1",
        spec.name.encode(),
    )


def _check(found: "PGresult", spec: Spec) -> None:
    dtype, shape, order = (str(found.get_value(0, n), "utf8") for n in (1, 2, 3))  # type: ignore[arg-type]  # not null
    size = _number(found, 5, "!i")
    if dtype != spec.dtype:
        raise RegionFormatError(
            f"region {spec.name!r} has elements of {dtype}, not {spec.dtype}: open it with "
            f"dtype={dtype!r}, or choose another name"
        )
    if size != spec.nbytes:
        raise RegionSizeError(
            f"region {spec.name!r} has {size} bytes, not {spec.nbytes}: open it with its own "
            f"length (shape {shape}), or choose another name"
        )
    if shape != _array(spec.shape).decode():
        raise RegionFormatError(
            f"region {spec.name!r} has the shape {shape}, not {spec.shape}: open it with that "
            "shape=, or choose another name"
        )
    if order != sys.byteorder:
        raise RegionFormatError(
            f"region {spec.name!r} was made on a {order}-endian host, and this one is "
            f"{sys.byteorder}-endian: choose another name"
        )


async def remove(session: Session, spec: Spec) -> None:
    """Remove the row, under the write lock, so that no holder is left without its region.

    Raises:
        RegionNotFoundError: there is none.
    """
    found = await _find(session, spec)
    grant = None
    if found.ntuples:
        identity = _number(found, 0, "!i")
        grant = await session.take(identity, exclusive=True, known=None, patience=0)
    if grant is None:
        raise RegionNotFoundError(2, "no such region in the database", spec.name)
    schema, key = spec.terms.schema, b"%d" % identity
    for table, column in (("writers", "region"), ("regions", "id")):
        await session.ask(
            "remove the region",
            f"DELETE FROM {schema}.{table} WHERE {column} = $1::int",
            key,
        )
    await session.free()


def _array(shape: tuple[int, ...]) -> bytes:
    return ("{" + ",".join(map(str, shape)) + "}").encode()


def _number(found: "PGresult", column: int, code: str) -> int:
    value = found.get_value(0, column)
    assert value is not None
    number: int = struct.unpack(code, value)[0]
    return number
