"""A session of the database: its settings, its lock, and what regions ask of it."""

import math
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from psycopg import pq

from ..errors import RegionFormatError, RegionServerError
from . import conninfo, failures
from .address import Terms
from .failures import CalledOff, DisconnectedError
from .schema import VERSION, ddl
from .wire import BINARY, TEXT, Command, Wire

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["Grant", "Session"]

#: The oldest server that has all the settings: client_connection_check_interval came with it.
OLDEST = 140000

TAKE = b"shm_take"
STORE = b"shm_store"
FREE = Command(b"shm_free", prepared=True)
SHARE = b"shm_share"
LOOK = b"shm_look"
PROBE = Command(b"shm_probe", prepared=True)


@dataclass(frozen=True, slots=True)
class Grant:
    """A lock that was granted, and what the region was then. `data` is None if it is known."""

    revision: int
    token: bytes
    fence: int
    data: bytes | None


class Session:
    """One session. `lock` is held by the task that uses it; `pid` and `started` name it.

    Invariant: `held` => the session has an advisory lock, as far as is known here.
    """

    __slots__ = (
        "_quiet",
        "_unquiet",
        "_waits",
        "held",
        "lock",
        "namespace",
        "pid",
        "started",
        "terms",
        "wire",
    )

    def __init__(self, wire: Wire, terms: Terms) -> None:
        self.wire = wire
        self.terms = terms
        self.lock = anyio.Lock(fast_acquire=True)
        self.pid = 0
        self.started = b""
        self.namespace = b""
        self.held = False
        self._quiet = anyio.Lock(fast_acquire=True)  # held while a request is called off
        self._waits = False  # for the answer to a `take`
        self._unquiet = False  # the server may yet stop the next command instead

    @property
    def dead(self) -> bool:
        return self.wire.dead

    # ---- begin -----------------------------------------------------------------------

    @classmethod
    async def open(cls, parameters: dict[str, str], terms: Terms) -> "Session":
        """Connect, set up and check a session; create the tables if there are none.

        Raises:
            DisconnectedError: it may succeed later. RegionServerError, RegionFormatError,
            PermissionError: it will not.
        """
        wire = await Wire.connect(await conninfo.prepare(parameters, terms))
        self = cls(wire, terms)
        try:
            await self._set_up()
        except BaseException:
            wire.close()
            raise
        return self

    async def _set_up(self) -> None:
        if self.wire.pg.server_version < OLDEST:
            raise RegionServerError("the server is too old: PostgreSQL 14 or newer is needed")
        [found] = _checked(await self.wire.script("SELECT pg_backend_pid()"), "answer")
        self.pid = int(_value(found, 0))
        self._refuse_a_pooler()  # before it gets settings that it would keep
        found = _checked(await self.wire.script(self._settings()), "set up a session")[-1]
        self.started = _value(found, 0)
        if found.get_value(0, 1) is None:
            _checked(await self.wire.script(ddl(self.terms.schema)), "create the tables")
        self.wire.begin()
        await self._check_version()
        await self._prepare()

    def _settings(self) -> str:
        milliseconds = math.ceil(1000 * self.terms.check_interval)
        seconds = max(1, math.ceil(self.terms.check_interval))
        settings = {
            "client_connection_check_interval": min(milliseconds, 1000),
            "idle_session_timeout": 0,
            "idle_in_transaction_session_timeout": 0,
            "statement_timeout": 0,
            "lock_timeout": 0,
            "tcp_keepalives_idle": seconds,
            "tcp_keepalives_interval": seconds,
            "tcp_keepalives_count": 2,
            "tcp_user_timeout": 2000 * seconds,
            "default_transaction_isolation": "'read committed'",
            "default_transaction_read_only": "off",
            "client_min_messages": "error",
        }
        sets = [f"SET {key} = {value};" for key, value in settings.items()]
        return (
            "".join(sets) + "SELECT (SELECT backend_start::text FROM pg_stat_activity "
            f"WHERE pid = pg_backend_pid()), to_regclass('{self.terms.schema}.writers')"
        )

    def _refuse_a_pooler(self) -> None:
        if self.terms.pooler is None and self.pid != self.wire.pg.backend_pid:
            raise RegionServerError(
                "a pooler stands before the database; in transaction mode it breaks session "
                "locks without a word: connect to the server itself, or, if the pooler keeps "
                "sessions whole (pool_mode=session), say open_region(..., pooler='session')"
            )

    async def _check_version(self) -> None:
        schema = self.terms.schema
        sql = f"SELECT version, namespace::text FROM {schema}.meta"
        [found] = await self._ask("read the version", Command(sql.encode()))
        version = struct.unpack("!i", _value(found, 0))[0] if found.ntuples else None
        if version != VERSION:
            raise RegionFormatError(
                f"schema {schema!r} of the database has version {version} of the tables, and this "
                f"shm_async needs {VERSION}: choose another schema=, or the other version"
            )
        self.namespace = _value(found, 1)

    async def _prepare(self) -> None:
        schema = self.terms.schema
        statements = {
            TAKE: f"SELECT * FROM {schema}.take($1::int, $2::int, $3::bool, $4::uuid, $5::int)",
            STORE: f"SELECT {schema}.store($1::int, $2::int8, $3::int, $4::uuid, $5::int8, "
            "$6::uuid, $7::bytea)",
            FREE.statement: "SELECT pg_advisory_unlock_all()",
            SHARE: "SELECT pg_advisory_lock_shared($1::int, $2::int), "
            "pg_advisory_unlock($1::int, $2::int)",
            LOOK: f"SELECT revision, token, data FROM {schema}.regions WHERE id = $1::int",
            PROBE.statement: "SELECT 1",
        }
        for name, sql in statements.items():
            self.wire.prepare(name, sql.encode())
        _checked(await self.wire.prepared(len(statements)), "use the tables")

    # ---- locks -----------------------------------------------------------------------

    async def take(
        self, region: int, *, exclusive: bool, known: bytes | None, patience: int
    ) -> Grant | None:
        """Wait for the lock and read the data, in one round trip; None: there is no such region.

        Args:
            region: its id.
            exclusive: whether to write.
            known: the token of the data that is known here.
            patience: milliseconds after which the server ends the wait; 0: never.

        Raises:
            CalledOff: the wait was stopped. Nothing is held.
        """
        command = Command(
            TAKE,
            (_int(region), self.namespace, b"t" if exclusive else b"f", known, _int(patience)),
            (TEXT, TEXT, TEXT, BINARY, TEXT),
            prepared=True,
        )
        async with self.lock:
            self.held = True
            try:
                [found] = await self._ask_to_take(command)
                await self._quieten()
            except Exception:  # an error behind the grant leaves the session its lock
                if not self.dead:
                    await self._quieten()
                    await self._free()
                raise
            if found.get_value(0, 0) is None:
                await self._free()
                return None
        fence = found.get_value(0, 2)
        return Grant(
            struct.unpack("!q", _value(found, 0))[0],
            _value(found, 1),
            0 if fence is None else struct.unpack("!q", fence)[0],
            found.get_value(0, 3),
        )

    async def store(
        self, region: int, revision: int, author: bytes, number: int, data: bytes, *, then: str
    ) -> Grant | None:
        """Store the data, and then "free" the lock, "share" or "keep" it; in one round trip.

        Waits until the data is stored, and not until the lock is free; for twice the interval of
        checks at most.

        Returns:
            The new revision and token; None if the server refused, as the lock was lost.

        Raises:
            DisconnectedError: nobody knows whether it was stored. RegionServerError: it was not.
        """
        token = os.urandom(16)
        command = Command(
            STORE,
            (_int(region), _int(revision), _int(self.pid), author, _int(number), token, data),
            (TEXT, TEXT, TEXT, BINARY, TEXT, BINARY, BINARY),
            prepared=True,
        )
        batches = [[command]]
        if then == "share":
            batches.append([self._sharing(region)])
        end = monotonic() + 2 * self.terms.check_interval
        async with self.lock:
            found = await self.wire.run_within(
                end - monotonic(), *batches, behind=FREE if then == "free" else None
            )
            self.held = then != "free"
        _checked(found, "store the data")
        moved = found[0].get_value(0, 0)
        return None if moved is None else Grant(struct.unpack("!q", moved)[0], token, 0, None)

    async def free(self) -> None:
        """Release the lock. Waits for no answer: the server does it before what comes next.

        If it cannot do it, the next request ends the session, and so the lock.
        """
        async with self.lock:
            await self.wire.run(behind=FREE)
            self.held = False

    async def _free(self) -> None:
        await self._ask("release the lock", FREE)
        self.held = False

    async def call_off(self) -> bool:
        """Have the server stop the `take` that waits; False: it cannot be asked.

        None begins once the answer is here: it would stop a later command, a store even.
        """
        async with self._quiet:
            if not self._waits:
                return True
            self._unquiet = True
            return await self.wire.interrupt()

    async def _ask_to_take(self, command: Command) -> list["PGresult"]:
        self._waits = True
        try:
            return await self._ask("take the lock", command)
        finally:
            self._waits = False

    async def _quieten(self) -> None:
        """Let a late order to stop hit a command that does no work."""
        if not self._unquiet and not self._quiet.locked():
            return
        async with self._quiet:
            unquiet, self._unquiet = self._unquiet, False
        if unquiet:
            with suppress(CalledOff):
                await self._ask("answer", PROBE)

    async def share(self, region: int) -> None:
        """Turn the exclusive lock into a shared one; nobody writes in between."""
        async with self.lock:
            await self._ask("share the lock", self._sharing(region))

    def _sharing(self, region: int) -> Command:
        return Command(SHARE, (self.namespace, _int(region)), prepared=True)

    # ---- questions -------------------------------------------------------------------

    async def look(self, region: int) -> Grant | None:
        """What the region is now, without a lock; None: there is no such region."""
        async with self.lock:
            [found] = await self._ask(
                "read the data", Command(LOOK, (_int(region),), prepared=True)
            )
        if not found.ntuples:
            return None
        revision = struct.unpack("!q", _value(found, 0))[0]
        return Grant(revision, _value(found, 1), 0, _value(found, 2))

    async def probe(self) -> None:
        """Ask for nothing, to see that there is an answer."""
        async with self.lock:
            await self._ask("answer", PROBE)

    async def ask(self, doing: str, sql: str, *values: bytes | None) -> "PGresult":
        """Run one statement of its own; the values are texts."""
        async with self.lock:
            [found] = await self._ask(doing, Command(sql.encode(), values))
        return found

    async def _ask(self, doing: str, command: Command) -> list["PGresult"]:
        return _checked(await self.wire.run([command]), doing)

    # ---- end -------------------------------------------------------------------------

    def close(self) -> None:
        """End the session; the server frees its lock."""
        self.held = False
        self.wire.close()


def _checked(results: list["PGresult"], doing: str) -> list["PGresult"]:
    for result in results:
        if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
            raise failures.of_result(result, doing)
    if not results:
        raise DisconnectedError("the database gave no answer")
    return results


def _value(found: "PGresult", column: int) -> bytes:
    value = found.get_value(0, column)
    if value is None:
        raise RegionFormatError("the database gave no value where there must be one")
    return value


def _int(number: int) -> bytes:
    return b"%d" % number
