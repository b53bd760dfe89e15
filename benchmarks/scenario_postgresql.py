"""postgresql: regions in a database, and the same by hand with psycopg, against one server.

Measured: a write lock with a store of 64 bytes and a read lock, each on one connection, against
the statements that one would write by hand: lock, select, update, notify, unlock; beside them the
locks of other packages. Then increments
a second of 100 coroutines in each of two processes, which are stored in groups, against one commit
for each; and holds a second in 1, 10 and 100 regions of one process. The server is a local one,
on a Unix socket, and does not wait for its disk. At last: how soon a lock is free once its holder
was killed, and a holder knows that its server answers no more.
"""

import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import anyio
import psycopg

from benchmarks import postgresql_failures, postgresql_peers, servers
from benchmarks.harness import Report, median_ratio, summarise
from benchmarks.outcome import Bench, Outcome, Table, Target
from benchmarks.processes import Pipe, in_child, members
from shm_async import SharedRegion, open_region

WRITE, READ = "write lock and store of 64 bytes", "read lock"
OURS, HAND = "shm_async", "by hand, psycopg's AsyncConnection"
THREAD = "by hand, psycopg's Connection, without a loop"
PEERS = (postgresql_peers.POSTGRESQL_LOCK, postgresql_peers.DLOCK, postgresql_peers.REDIS)
COROUTINES, PROCESSES = 100, 2
REGIONS = (1, 10, 100)

Way = Callable[[], Awaitable[None]]

Times = dict[str, list[float]]


def run(bench: Bench, report: Report) -> Outcome:
    outcome = Outcome("Regions in PostgreSQL")
    with servers.postgresql() as server, servers.redis() as redis:
        if isinstance(server, str):
            outcome.notes.append(f"skipped: {server}")
            return outcome
        rounds = bench.pick(20, 100)
        add_latency(outcome, *in_child(report, latency, server.address, redis, rounds))
        seconds = bench.pick(1, 4)
        rates = {who: throughput(server.address, who, seconds) for who in (OURS, HAND)}
        table = Table(f"Increments a second, {PROCESSES} processes", ("a second", "x by hand"))
        for who, rate in rates.items():
            table.add(who, rate, rate / rates[HAND])
        outcome.tables.append(table)
        gain = rates[OURS] / rates[HAND]
        outcome.targets.append(
            Target(f"{COROUTINES} coroutines in each / one commit each", gain, ">=", 5)
        )
        holds = Table("Write locks a second by the number of regions", ("a second",))
        for count in REGIONS:
            rate = in_child(report, spread, server.address, count, seconds)
            holds.add(f"{count} regions", rate)
        outcome.tables.append(holds)
        postgresql_failures.add(outcome, report, server.address, bench.pick(5, 50))
    outcome.notes.append("fsync=off, so a commit costs no disk; a Unix socket, so no network")
    return outcome


def add_latency(outcome: Outcome, times: Times, absent: dict[str, str]) -> None:
    table = Table("One hold, median", ("ms", "x by hand"))
    for what in (WRITE, READ):
        base = times[f"{what}, {HAND}"]
        peers = PEERS if what == WRITE else ()
        for who in (OURS, HAND, THREAD, *peers):
            if who in absent:
                table.add(f"{what}: {who}", absent[who], "")
                continue
            values = times[f"{what}, {who}"]
            outcome.samples[f"{what}, {who}"] = summarise(values)
            table.add(f"{what}: {who}", statistics.median(values) * 1e3, median_ratio(values, base))
        limit = 0.75 if what == WRITE else 1.25
        ratio = median_ratio(times[f"{what}, {OURS}"], base)
        outcome.targets.append(Target(f"{what} / by hand", ratio, "<=", limit))
    outcome.tables.append(table)


def conninfo(socket: str) -> str:
    return f"host={socket} user=postgres dbname=postgres"


def url_of(socket: str, name: str) -> str:
    return f"postgresql://postgres@/postgres?host={socket}#{name}"


# ---- one hold --------------------------------------------------------------------------------


def latency(
    report: Report, socket: str, redis: "servers.Server | str", rounds: int
) -> tuple[Times, dict[str, str]]:
    """All in one loop, in turn; the plain connection blocks it, which disturbs nobody here."""
    return anyio.run(measure, report, socket, redis, rounds)


async def measure(
    report: Report, socket: str, redis: "servers.Server | str", rounds: int
) -> tuple[Times, dict[str, str]]:
    """The times of each way, and the peers that are absent, with the reason."""
    times: Times = {}
    address = url_of(socket, "latency")
    async with (
        open_region(address, 8, dtype="uint64") as region,
        AsyncHand(socket) as hand,
        AsyncExitStack() as stack,
    ):
        peers = await postgresql_peers.ways(stack, conninfo(socket), redis)
        with Hand(socket) as thread:
            ways: dict[str, Way] = {
                f"{WRITE}, {OURS}": partial(write, region),
                f"{READ}, {OURS}": partial(read, region),
                f"{WRITE}, {HAND}": hand.write,
                f"{READ}, {HAND}": hand.read,
                f"{WRITE}, {THREAD}": partial(blocking, thread.write),
                f"{READ}, {THREAD}": partial(blocking, thread.read),
            }
            ways |= {f"{WRITE}, {who}": way for who, way in peers.items() if callable(way)}
            order = list(ways)
            for number in range(rounds):
                random.Random(number).shuffle(order)
                for key in order:
                    report(key, number / rounds)
                    times.setdefault(key, []).append(await clock(ways[key]))
    return times, {who: why for who, why in peers.items() if isinstance(why, str)}


async def blocking(function: Callable[[], None]) -> None:
    function()


async def clock(once: Way) -> float:
    start = time.perf_counter()
    for _ in range(10):
        await once()
    return (time.perf_counter() - start) / 10


async def write(region: SharedRegion) -> None:
    async with region.write_lock() as view:
        view[0] += 1


async def read(region: SharedRegion) -> None:
    async with region.read_lock() as view:
        assert view[1] == 0


#: What is written by hand: a statement for each step, and a round trip for each of them.
LOCK, LOCK_SHARED = "SELECT pg_advisory_lock(1, 1)", "SELECT pg_advisory_lock_shared(1, 1)"
UNLOCK, UNLOCK_SHARED = (
    "SELECT pg_advisory_unlock(1, 1)",
    "SELECT pg_advisory_unlock_shared(1, 1)",
)
SELECT = "SELECT data FROM by_hand WHERE id = 1"
UPDATE = "UPDATE by_hand SET data = %b WHERE id = 1"
NOTIFY = "SELECT pg_notify('by_hand', '1')"


def one_more(data: bytes) -> bytes:
    return (int.from_bytes(data[:8], "little") + 1).to_bytes(8, "little") + data[8:]


class Hand:
    """The statements by hand, on one prepared connection of a thread."""

    def __init__(self, socket: str) -> None:
        self.connection = psycopg.connect(conninfo(socket), autocommit=True, prepare_threshold=0)
        self.execute: Callable[..., Any] = self.connection.execute
        with self.connection.transaction():
            self.execute("SELECT pg_advisory_xact_lock(1, 0)")
            self.execute("CREATE TABLE IF NOT EXISTS by_hand (id int PRIMARY KEY, data bytea)")
            self.execute(
                "INSERT INTO by_hand VALUES (1, decode(repeat('00', 64), 'hex')) "
                "ON CONFLICT DO NOTHING"
            )

    def __enter__(self) -> "Hand":
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()

    def write(self) -> None:
        self.execute(LOCK)
        [data] = self.execute(SELECT, binary=True).fetchone()
        self.execute(UPDATE, [one_more(data)])
        self.execute(NOTIFY)
        self.execute(UNLOCK)

    def read(self) -> None:
        self.execute(LOCK_SHARED)
        self.execute(SELECT, binary=True).fetchone()
        self.execute(UNLOCK_SHARED)


class AsyncHand:
    """The same in a coroutine. The table is there."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    async def __aenter__(self) -> "AsyncHand":
        Hand(self.socket).connection.close()  # makes the table
        self.connection = await psycopg.AsyncConnection.connect(
            conninfo(self.socket), autocommit=True, prepare_threshold=0
        )
        self.execute: Callable[..., Any] = self.connection.execute
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.connection.close()

    async def write(self) -> None:
        await self.execute(LOCK)
        found = await self.execute(SELECT, binary=True)
        [data] = await found.fetchone()
        await self.execute(UPDATE, [one_more(data)])
        await self.execute(NOTIFY)
        await self.execute(UNLOCK)

    async def read(self) -> None:
        await self.execute(LOCK_SHARED)
        found = await self.execute(SELECT, binary=True)
        await found.fetchone()
        await self.execute(UNLOCK_SHARED)


# ---- many ------------------------------------------------------------------------------------


def throughput(socket: str, who: str, seconds: float) -> float:
    """Increments a second of all processes together."""
    work = count_ours if who == OURS else count_by_hand
    with members(work, [(socket, seconds)] * PROCESSES) as workers:
        for worker in workers:
            assert worker.receive() == "ready"
        for worker in workers:
            worker.pipe.send("go")
        done: int = sum(worker.receive() for worker in workers)
        return done / seconds


def count_ours(pipe: Pipe, socket: str, seconds: float) -> None:
    async def main() -> int:
        async with open_region(url_of(socket, "many"), 8, dtype="uint64") as region:
            pipe.send("ready")
            pipe.recv()
            return await count([region] * COROUTINES, seconds)

    pipe.send(anyio.run(main))


async def count(regions: list[SharedRegion], seconds: float) -> int:
    """How many increments one coroutine for each of them gets done."""
    done = 0
    end = time.monotonic() + seconds

    async def go_on(region: SharedRegion) -> None:
        nonlocal done
        while time.monotonic() < end:
            await write(region)
            done += 1

    async with anyio.create_task_group() as tasks:
        for region in regions:
            tasks.start_soon(go_on, region)
    return done


def count_by_hand(pipe: Pipe, socket: str, seconds: float) -> None:
    async def main() -> int:
        async with AsyncHand(socket) as hand:
            pipe.send("ready")
            pipe.recv()
            done, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                await hand.write()
                done += 1
            return done

    pipe.send(anyio.run(main))


def spread(report: Report, socket: str, regions: int, seconds: float) -> float:
    """Holds a second with one coroutine for each region."""

    async def main() -> int:
        found = [
            open_region(url_of(socket, f"spread-{number}"), 8, dtype="uint64")
            for number in range(regions)
        ]
        async with AsyncExitStack() as stack:
            for region in found:
                await stack.enter_async_context(region)
            return await count(found, seconds)

    report(f"{regions} regions", 0.5)
    return anyio.run(main) / seconds
