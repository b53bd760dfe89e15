"""The locks that count, ours and those that people pick instead, by name.

A member looks its variant up by name, so that nothing but names goes from process to process. The
clients of the servers are imported by the members that need them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Lock
from typing import Any, Literal

from anyio.to_thread import run_sync

from benchmarks import peers
from benchmarks.peers import AsyncHandle, Pair, SyncHandle

#: What a variant needs besides a name, which its processes are lent.
Need = Literal["nothing", "lock", "redis", "postgresql"]


@dataclass(frozen=True, slots=True)
class Coroutines:
    """Workers of an event loop. The maker gets a name and what it is lent."""

    maker: Callable[[str, Any], AsyncHandle]
    loop: str = "asyncio"
    shared: bool = False  # one handle for all workers of a process
    polite: bool = False  # the event loop of asyncio runs after each increment
    need: Need = "nothing"
    excludes: bool = True  # False: it increments without a lock


@dataclass(frozen=True, slots=True)
class Threads:
    """Workers in threads. The maker gets a name and what it is lent."""

    maker: Callable[[str, Any], SyncHandle]
    shared: bool = False
    need: Need = "nothing"
    excludes: bool = True


def ours(name: str, _lent: object) -> AsyncHandle:
    return peers.ours(name)


def ours_sync(name: str, _lent: object) -> SyncHandle:
    return peers.ours_sync(name)


# ---- multiprocessing.Lock --------------------------------------------------------------


def multiprocessing_sync(_name: str, lock: Lock) -> SyncHandle:
    return SyncHandle(lambda: lock)


def multiprocessing_in_threads(_name: str, lock: Lock) -> AsyncHandle:
    async def acquire() -> None:
        await run_sync(lock.acquire)

    async def release() -> None:
        lock.release()

    return AsyncHandle(lambda: Pair(acquire, release))


# ---- servers ---------------------------------------------------------------------------


def redis_incr(name: str, address: str) -> AsyncHandle:
    """No lock at all: the server adds."""
    from redis.asyncio import Redis

    client = Redis(unix_socket_path=address)

    async def increment() -> None:
        await client.incr(name)

    async def nothing() -> None:
        pass

    return AsyncHandle(lambda: Pair(increment, nothing))


def redis_lock(name: str, address: str) -> AsyncHandle:
    """As it ships: it polls every 100 ms."""
    from redis.asyncio import Redis

    lock = Redis(unix_socket_path=address).lock(name)
    return AsyncHandle(lambda: lock)


def postgresql_lock(_name: str, address: str) -> AsyncHandle:
    """An advisory lock of the session, so each worker has a connection."""
    import psycopg

    connected: list[psycopg.AsyncConnection[Any]] = []

    async def acquire() -> None:
        if not connected:
            connected.append(
                await psycopg.AsyncConnection.connect(
                    host=address, user="postgres", dbname="postgres", autocommit=True
                )
            )
        await connected[0].execute("SELECT pg_advisory_lock(1)")

    async def release() -> None:
        await connected[0].execute("SELECT pg_advisory_unlock(1)")

    return AsyncHandle(lambda: Pair(acquire, release))


# ---- all -------------------------------------------------------------------------------

OURS, OURS_SYNC = "shm_async, asyncio", "shm_async, with"
OURS_POLITE, OURS_UVLOOP = "shm_async, asyncio, sleep(0) after each", "shm_async, uvloop"

VARIANTS: dict[str, Coroutines | Threads] = {
    OURS: Coroutines(ours, shared=True),
    OURS_POLITE: Coroutines(ours, shared=True, polite=True),
    OURS_UVLOOP: Coroutines(ours, loop="uvloop", shared=True),
    OURS_SYNC: Threads(ours_sync, shared=True),
    "multiprocessing.Lock, with": Threads(multiprocessing_sync, shared=True, need="lock"),
    "to_thread(multiprocessing.Lock)": Coroutines(
        multiprocessing_in_threads, shared=True, need="lock"
    ),
    peers.NAIVE: Coroutines(lambda name, _: peers.naive(name)),
    peers.ASYNC_FILE_LOCK: Coroutines(lambda name, _: peers.async_file_lock(name)),
    peers.ASYNC_RW_LOCK: Coroutines(lambda name, _: peers.async_read_write_lock(name)),
    "portalocker, with": Threads(lambda name, _: peers.portalocker_sync(name)),
    "to_thread(portalocker)": Coroutines(lambda name, _: peers.portalocker_async(name)),
    "Redis INCR": Coroutines(redis_incr, shared=True, need="redis", excludes=False),
    "redis-py Lock": Coroutines(redis_lock, need="redis"),
    "PostgreSQL advisory lock": Coroutines(postgresql_lock, need="postgresql"),
}
