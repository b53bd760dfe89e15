"""One connection of libpq, driven by whatever event loop runs: asyncio, uvloop or trio.

Commands go in libpq's pipeline mode: several batches of them, each a transaction of its own, cost
one round trip. Nothing here blocks.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakSet

import anyio
from psycopg import pq

from . import failures
from .failures import DisconnectedError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Command", "Wire"]

TEXT, BINARY = 0, 1


@dataclass(frozen=True, slots=True)
class Command:
    """A statement that was prepared, or SQL text, and its values."""

    statement: bytes
    values: Sequence[bytes | None] = ()
    formats: Sequence[int] | None = None
    prepared: bool = False


class Wire:
    """A connection. One task at a time may use it.

    Invariant: `dead` <=> nothing more can be asked of it. It is set when an exception, a
    cancellation included, ends a request half-way, as answers would be taken for those of others.
    `owed`: the answers to come first are those of so many commands that nobody waits for.
    """

    __slots__ = ("__weakref__", "dead", "owed", "pg", "pid")

    def __init__(self, pg: "PGconn") -> None:
        self.pg = pg
        self.pid = os.getpid()  # of the process that made it
        self.dead = False
        self.owed = 0
        _wires.add(self)

    @classmethod
    async def connect(cls, conninfo: bytes) -> "Wire":
        """Connect. Raises DisconnectedError, PermissionError or RegionServerError."""
        wire = cls(pq.PGconn.connect_start(conninfo))
        try:
            await wire._poll()
        except BaseException:
            wire.close()
            raise
        wire.pg.nonblocking = 1
        return wire

    async def _poll(self) -> None:
        pg = self.pg
        status = pq.PollingStatus.WRITING
        if pg.status == pq.ConnStatus.BAD:
            status = pq.PollingStatus.FAILED
        while status != pq.PollingStatus.OK:
            if status == pq.PollingStatus.FAILED:
                raise failures.of_connecting(_text(pg), needs_password=pg.needs_password)
            if status == pq.PollingStatus.READING:
                await anyio.wait_readable(pg.socket)
            else:
                await anyio.wait_writable(pg.socket)
            status = pq.PollingStatus(pg.connect_poll())

    # ---- commands ----------------------------------------------------------------

    async def script(self, sql: str) -> list["PGresult"]:
        """Run statements without values, before `begin`. An error is among the results."""
        with _Use(self):
            self.pg.send_query(sql.encode())
            await self._flush()
            results = []
            while (result := await self._next()) is not None:
                results.append(result)
            return results

    def begin(self) -> None:
        """From now on `run` alone is used."""
        self.pg.enter_pipeline_mode()

    async def run(
        self, *batches: Sequence[Command], behind: Command | None = None
    ) -> list["PGresult"]:
        """Run batches, each a transaction, in one round trip. Returns a result for each command.

        A result may be an error; then the rest of its batch is PIPELINE_ABORTED, and the
        batches behind it run.

        Args:
            *batches: their commands.
            behind: a command that runs after them, in a transaction of its own, and is not waited
                for. If it fails, the next `run` raises DisconnectedError.

        Raises:
            DisconnectedError: the connection broke, and nobody knows what was done.
        """
        with _Use(self):
            for batch in [*batches, [behind]] if behind else batches:
                for command in batch:
                    self._send(command)
                self.pg.pipeline_sync()
            await self._flush()
            await self._settle()
            self.owed = 0 if behind is None else 1
            results = []
            for batch in batches:
                results += [await self._result() for _ in batch]
                await self._synchronised()
            return results

    async def _settle(self) -> None:
        """Take in the answers that nobody has waited for."""
        for _ in range(self.owed):
            result = await self._result()
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise DisconnectedError("the database did not do what was asked last")
            await self._synchronised()

    def _send(self, command: Command) -> None:
        if command.prepared:
            self.pg.send_query_prepared(
                command.statement, command.values, command.formats, result_format=BINARY
            )
        else:
            self.pg.send_query_params(
                command.statement, command.values, None, command.formats, result_format=BINARY
            )

    def prepare(self, name: bytes, sql: bytes) -> None:
        """Have the next `run` prepare a statement first: see `prepared`."""
        self.pg.send_prepare(name, sql)

    async def prepared(self, count: int) -> list["PGresult"]:
        """The results of that many calls of `prepare`."""
        with _Use(self):
            self.pg.pipeline_sync()
            await self._flush()
            results = [await self._result() for _ in range(count)]
            await self._synchronised()
            return results

    async def _flush(self) -> None:
        while self.pg.flush():
            await anyio.wait_writable(self.pg.socket)

    async def _result(self) -> "PGresult":
        """The result of one command, and the end of it."""
        result = await self._next()
        if result is None:
            raise DisconnectedError(f"the connection broke: {_text(self.pg)}")
        if result.status == pq.ExecStatus.FATAL_ERROR and self.pg.status == pq.ConnStatus.BAD:
            raise DisconnectedError(f"the database ended the connection: {_text(self.pg)}")
        if await self._next() is not None:
            raise DisconnectedError("the database gave two answers to one command")
        return result

    async def _synchronised(self) -> None:
        result = await self._next()
        if result is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            raise DisconnectedError(f"the connection broke: {_text(self.pg)}")

    async def _next(self) -> "PGresult | None":
        pg = self.pg
        while pg.is_busy():
            await anyio.wait_readable(pg.socket)
            pg.consume_input()
        return pg.get_result()

    # ---- what comes unasked ----------------------------------------------------------

    def look(self) -> bool:
        """Take in what has come; False if the server has ended the connection. Never waits."""
        if self.dead:
            return False
        try:
            self.pg.consume_input()
        except pq_error():
            self.dead = True
        if self.pg.status == pq.ConnStatus.BAD:
            self.dead = True
        return not self.dead

    def notifications(self) -> list[tuple[bytes, bytes]]:
        """The notifications that have come, each a channel and a text."""
        found = []
        while (notice := self.pg.notifies()) is not None:
            found.append((notice.relname, notice.extra))
        return found

    # ---- from beside it ----------------------------------------------------------------

    async def interrupt(self) -> bool:
        """Have the server stop the command that runs, over a connection of its own.

        Returns:
            False where this libpq (before 17) cannot ask without blocking.
        """
        try:
            cancel = self.pg.cancel_conn()
        except pq_error():
            return False
        try:
            cancel.start()
            status = cancel.poll()
            while status not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
                if status == pq.PollingStatus.READING:
                    await anyio.wait_readable(cancel.socket)
                else:
                    await anyio.wait_writable(cancel.socket)
                status = cancel.poll()
        except pq_error():
            pass  # it could not connect, or has come too late
        finally:
            cancel.finish()
        return True

    def cut(self) -> None:
        """End the connection under a task that waits in it; the task gets DisconnectedError."""
        self.dead = True
        with suppress(OSError, *[pq_error()]):
            twin = socket.socket(fileno=os.dup(self.pg.socket))
            with twin:
                twin.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it. In a forked child: leave the parent's connection alone."""
        self.dead = True
        if self.pid == os.getpid():
            self.pg.finish()


class _Use:
    """Marks a wire as dead if a request ends half-way, and turns libpq's errors into ours."""

    __slots__ = ("wire",)

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def __enter__(self) -> None:
        if self.wire.dead:
            raise DisconnectedError("the connection to the database is gone")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        self.wire.dead = True
        if isinstance(error, (pq_error(), OSError)) and not isinstance(error, DisconnectedError):
            raise DisconnectedError(f"the connection broke: {_text(self.wire.pg)}") from None


def pq_error() -> type[Exception]:
    """What psycopg raises for what libpq refuses."""
    import psycopg

    return psycopg.Error


def _text(pg: "PGconn") -> str:
    """What libpq says of a connection. It names hosts and users, and never a password."""
    message = pg.error_message
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return " ".join(text.split()) or "no reason given"


_wires: "WeakSet[Wire]" = WeakSet()


def _after_fork_in_child() -> None:
    """Close the child's copies: the server notices a parent's death by the end of its last copy."""
    for wire in list(_wires):
        with suppress(OSError, *[pq_error()]):
            if not wire.dead and wire.pid != os.getpid():
                os.close(wire.pg.socket)
        wire.dead = True


os.register_at_fork(after_in_child=_after_fork_in_child)
