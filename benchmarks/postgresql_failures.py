"""How soon a lock in PostgreSQL is free after its holder dies, and a holder hears of a loss."""

import os
import signal
import statistics
import time
from contextlib import suppress
from typing import Any

import anyio
import psycopg

from benchmarks.harness import Report
from benchmarks.outcome import Outcome, Table, Target
from benchmarks.processes import Pipe, members
from shm_async import LockLostError, open_region

#: Seconds between two checks of a hold.
INTERVAL = 0.5


def add(outcome: Outcome, report: Report, socket: str, rounds: int) -> None:
    table = Table("Failures", ("median ms", "worst ms", "rounds"))
    for what, limit, times in (
        ("SIGKILL in a write block until the next grant", 100, killed(report, socket, rounds)),
        (
            f"a server stops to answer until the holder knows, check_interval={INTERVAL}",
            2 * INTERVAL * 1e3,
            [anyio.run(frozen, socket) for _ in range(max(2, rounds // 5))],
        ),
    ):
        table.add(what, statistics.median(times), max(times), float(len(times)))
        outcome.targets.append(Target(f"{what}, worst", max(times), "<=", limit, " ms"))
    outcome.tables.append(table)


def url_of(socket: str) -> str:
    return f"postgresql://postgres@/postgres?host={socket}#failures"


def hold(pipe: Pipe, socket: str) -> None:
    with open_region(url_of(socket), 8, dtype="uint64") as region, region.write_lock() as view:
        view[0] += 1
        pipe.send("inside")
        pipe.recv()


def killed(report: Report, socket: str, rounds: int) -> list[float]:
    """Milliseconds from each kill to the grant of a waiter in this process."""
    times = []
    for number in range(rounds):
        report("holders that are killed", number / rounds)
        with members(hold, [(socket,)]) as [member]:
            assert member.receive() == "inside"
            times.append(anyio.run(wait_for_the_dead, socket, member.process.pid))
    return times


async def wait_for_the_dead(socket: str, pid: int | None) -> float:
    assert pid is not None
    start = 0.0

    async def kill() -> None:
        nonlocal start
        await anyio.sleep(0.1)  # the other task's request is at the server by now
        assert region.statistics().waiting
        start = time.perf_counter()
        os.kill(pid, signal.SIGKILL)

    async with (
        open_region(url_of(socket), 8, dtype="uint64") as region,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(kill)
        async with region.write_lock() as view:
            took = (time.perf_counter() - start) * 1e3
            assert view[0] == 0, "a killed writer's change is in"
    return took


async def frozen(socket: str) -> float:
    """Milliseconds from the stop of the holder's server process to `hold.lost`."""
    with psycopg.connect(f"host={socket} user=postgres dbname=postgres") as connection:
        async with open_region(
            url_of(socket), 8, dtype="uint64", check_interval=INTERVAL
        ) as region:
            lock: Any = region.write_lock()
            await lock.acquire()
            found = connection.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
            ).fetchone()
            assert found is not None
            try:
                os.kill(found[0], signal.SIGSTOP)
                start = time.perf_counter()
                await lock.lost.wait()
                took = (time.perf_counter() - start) * 1e3
            finally:
                os.kill(found[0], signal.SIGCONT)
            with suppress(LockLostError):
                await lock.release_async()
    return took
