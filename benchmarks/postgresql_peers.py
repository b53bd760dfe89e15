"""Locks of other packages over PostgreSQL and Redis, each with a store of 64 bytes by hand.

Those over PostgreSQL need Python 3.12: `make bench VENV=build/python3.12 PYTHON=python3.12`.
"""

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import psycopg

from benchmarks import servers

POSTGRESQL_LOCK, DLOCK = "postgresql-lock, with psycopg", "pg-dlock, with psycopg"
REDIS = "redis-py Lock, with GET and SET"

#: What stores once under the lock.
Way = Callable[[], Awaitable[None]]


async def ways(
    stack: AsyncExitStack, conninfo: str, redis: "servers.Server | str"
) -> dict[str, Way | str]:
    """Each peer, ready to be used until the stack ends; or why it cannot be."""
    return {
        POSTGRESQL_LOCK: await postgresql_lock(stack, conninfo),
        DLOCK: await dlock(stack, conninfo),
        REDIS: redis if isinstance(redis, str) else await redis_lock(stack, redis.address),
    }


async def postgresql_lock(stack: AsyncExitStack, conninfo: str) -> Way | str:
    locks = package("postgresql_lock")
    if isinstance(locks, str):
        return locks
    connection = await connect(stack, conninfo)

    async def write() -> None:
        async with locks.Lock(connection, "benchmark"):
            await store(connection)

    return write


async def dlock(stack: AsyncExitStack, conninfo: str) -> Way | str:
    """Each of its locks connects anew, unless it is one of a transaction."""
    locks = package("pg_dlock")
    if isinstance(locks, str):
        return locks
    connection = await connect(stack, conninfo)
    locker = await stack.enter_async_context(locks.AsyncLocker(conninfo))

    async def write() -> None:
        async with await locker.lock("benchmark"):
            await store(connection)

    return write


def package(name: str) -> Any:
    """The module, or why it cannot be had."""
    if sys.version_info < (3, 12):
        return "needs Python 3.12"
    return "not installed" if find_spec(name) is None else import_module(name)


async def connect(stack: AsyncExitStack, conninfo: str) -> Any:
    connection = await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, prepare_threshold=0
    )
    stack.push_async_callback(connection.close)
    return connection


async def store(connection: Any) -> None:
    """What `AsyncHand` does between its lock and its unlock."""
    found = await connection.execute("SELECT data FROM by_hand WHERE id = 1", binary=True)
    [data] = await found.fetchone()
    await connection.execute("UPDATE by_hand SET data = %b WHERE id = 1", [data])
    await connection.execute("SELECT pg_notify('by_hand', '1')")


async def redis_lock(stack: AsyncExitStack, socket: str) -> Way:
    from redis.asyncio import Redis

    client: Any = Redis(unix_socket_path=socket)
    stack.push_async_callback(client.aclose)
    await client.set("data", bytes(64))

    async def write() -> None:
        async with client.lock("lock", timeout=10):
            await client.set("data", await client.get("data"))

    return write
