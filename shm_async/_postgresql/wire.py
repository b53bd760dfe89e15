"""One connection of libpq, driven by whatever event loop runs: asyncio, uvloop or trio.

Commands go in libpq's pipeline mode: several batches of them, each a transaction of its own, cost
one round trip. Nothing here blocks.
"""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

import anyio
from psycopg import pq

from . import failures
from .failures import DisconnectedError
from .signals import current_asyncio

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Command", "Wire"]

TEXT, BINARY = 0, 1


class Command(NamedTuple):
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
    `_loop` <=> it is asyncio's, and calls `_come` whenever something has come, from `begin` until
    the wire is dead or closed; to register the socket for each wait would cost more than the wait.
    """

    __slots__ = ("__weakref__", "_loop", "_socket", "_waiting", "dead", "owed", "pg", "pid")

    def __init__(self, pg: "PGconn") -> None:
        self.pg = pg
        self.pid = os.getpid()  # of the process that made it
        self.dead = False
        self.owed = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket = -1  # as the loop knows it
        self._waiting: asyncio.Future[None] | None = None  # for something to come
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
            results: list[PGresult] = []
            while True:
                if self.pg.is_busy():
                    await self._until_answered()
                result = self.pg.get_result()
                if result is None:
                    return results
                results.append(result)

    def begin(self) -> None:
        """From now on `run` alone is used."""
        self.pg.enter_pipeline_mode()
        loop = current_asyncio()
        if loop is not None:
            self._loop, self._socket = loop, self.pg.socket
            loop.add_reader(self._socket, self._come)

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

    async def run_within(
        self, seconds: float, *batches: Sequence[Command], behind: Command | None = None
    ) -> list["PGresult"]:
        """Do what `run` does; cut the connection if it takes longer."""
        if self._loop is None:
            with anyio.move_on_after(seconds):
                return await self.run(*batches, behind=behind)
            raise DisconnectedError("the database does not answer in time")
        timer = self._loop.call_later(seconds, self.cut)  # at a third of the price of a scope
        try:
            return await self.run(*batches, behind=behind)
        finally:
            timer.cancel()

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
        pg = self.pg
        if pg.is_busy():
            await self._until_answered()
        result = pg.get_result()
        if result is None:
            raise DisconnectedError(f"the connection broke: {_text(pg)}")
        if result.status == pq.ExecStatus.FATAL_ERROR and pg.status == pq.ConnStatus.BAD:
            raise DisconnectedError(f"the database ended the connection: {_text(pg)}")
        if pg.is_busy():
            await self._until_answered()
        if pg.get_result() is not None:
            raise DisconnectedError("the database gave two answers to one command")
        return result

    async def _synchronised(self) -> None:
        if self.pg.is_busy():
            await self._until_answered()
        result = self.pg.get_result()
        if result is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            raise DisconnectedError(f"the connection broke: {_text(self.pg)}")

    async def _until_answered(self) -> None:
        """Wait until libpq can tell its next result without waiting itself."""
        while self.pg.is_busy():
            await self.arrival()

    # ---- what comes -------------------------------------------------------------------

    async def arrival(self) -> None:
        """Wait until something has come, and take it in: an answer is then whole, as a rule.

        Raises:
            DisconnectedError: the connection is gone, so nothing will come.
        """
        if self.dead:
            raise DisconnectedError(f"the connection broke: {_text(self.pg)}")
        if self._loop is None:
            await anyio.wait_readable(self.pg.socket)
            self._consume()
            return
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _come(self) -> None:
        """Take in what has come, and wake the task that waits for it. The loop calls it."""
        self._consume()
        if not self.dead and self.pg.is_busy():
            return
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _consume(self) -> None:
        try:
            self.pg.consume_input()
        except pq_error():
            self.dead = True
        if self.pg.status == pq.ConnStatus.BAD:
            self.dead = True
        if self.dead:
            self.unwatch()  # libpq may have closed the socket, and its number may be given again

    def unwatch(self) -> None:
        """Have the loop watch it no more."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed() and self.pid == os.getpid():
            loop.remove_reader(self._socket)

    def look(self) -> bool:
        """Take in what has come; False if the server has ended the connection. Never waits."""
        if not self.dead:
            self._consume()
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
            same = socket.socket(fileno=self.pg.socket)
            try:
                same.shutdown(socket.SHUT_RDWR)
            finally:
                same.detach()
        self._wake()

    def close(self) -> None:
        """End it. In a forked child: leave the parent's connection alone."""
        self.dead = True
        self.unwatch()
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
        self.wire.unwatch()
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
