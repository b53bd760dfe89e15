"""Locks of other packages over PostgreSQL and Redis, each with a store of 64 bytes by hand."""

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import psycopg

from benchmarks import servers

POSTGRESQL_LOCK, REDIS = "postgresql-lock, with psycopg", "redis-py Lock, with GET and SET"

#: What stores once under the lock.
Way = Callable[[], Awaitable[None]]


async def ways(
    stack: AsyncExitStack, conninfo: str, redis: "servers.Server | str"
) -> dict[str, Way | str]:
    """Each peer, ready to be used until the stack ends; or why it cannot be."""
    return {
        POSTGRESQL_LOCK: await postgresql_lock(stack, conninfo),
        REDIS: redis if isinstance(redis, str) else await redis_lock(stack, redis.address),
    }


async def postgresql_lock(stack: AsyncExitStack, conninfo: str) -> Way | str:
    if sys.version_info < (3, 12):
        return "needs Python 3.12"
    if find_spec("postgresql_lock") is None:
        return "not installed"
    locks = import_module("postgresql_lock")
    connection: Any = await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, prepare_threshold=0
    )
    stack.push_async_callback(connection.close)

    async def write() -> None:
        async with locks.Lock(connection, "benchmark"):
            found = await connection.execute("SELECT data FROM by_hand WHERE id = 1", binary=True)
            [data] = await found.fetchone()
            await connection.execute("UPDATE by_hand SET data = %b WHERE id = 1", [data])
            await connection.execute("SELECT pg_notify('by_hand', '1')")

    return write


async def redis_lock(stack: AsyncExitStack, socket: str) -> Way:
    from redis.asyncio import Redis

    client: Any = Redis(unix_socket_path=socket)
    stack.push_async_callback(client.aclose)
    await client.set("data", bytes(64))

    async def write() -> None:
        async with client.lock("lock", timeout=10):
            await client.set("data", await client.get("data"))

    return write
