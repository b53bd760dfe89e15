"""Regions in PostgreSQL while workers are killed, sessions ended, servers restarted, packets lost.

Each increment that a worker was told of is found; each that it was told to have failed is not.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from databases import INTERVAL, Server
from proxies import Proxy
from waits import wait_until

from shm_async import open_region

pytestmark = pytest.mark.once

#: Counts in slot 0, and tells of each increment: "?" before, "+" stored, "-" not, "~" unknown.
WORKER = """
import os, sys, anyio, shm_async

async def count(region):
    while True:
        os.write(1, b"?")
        try:
            async with region.write_lock() as view:
                view[0] += 1
        except shm_async.LockLostError as error:
            os.write(1, b"-" if error.committed is False else b"~")
        else:
            os.write(1, b"+")

async def main():
    region = shm_async.open_region(
        sys.argv[1], 4, dtype="uint64", check_interval=float(sys.argv[2]), connect_timeout=20)
    async with region, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(count, region)

anyio.run(main, backend=sys.argv[3])
"""

#: Takes the write lock, changes the data, says so, and stays.
HOLDER = """
import os, sys, shm_async
with shm_async.open_region(sys.argv[1], 4, dtype="uint64") as region:
    with region.write_lock() as view:
        view[0] = 99
        os.write(1, b"!")
        os.read(0, 1)
"""


class Worker:
    """A process whose answers go to a file, which outlives it."""

    def __init__(self, program: str, address: str, log: Path, backend: str = "asyncio") -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, address, str(INTERVAL), backend],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.PIPE,
            )

    def told(self, what: bytes) -> int:
        return self.log.read_bytes().count(what)

    def unsettled(self) -> int:
        """Increments that were asked for, and of which nothing was told."""
        return self.told(b"?") - self.told(b"+") - self.told(b"-")

    def kill(self) -> None:
        self.process.kill()
        _, errors = self.process.communicate(timeout=10)
        assert not errors, errors.decode()


def value_of(address: str) -> int:
    with open_region(address, 4, dtype="uint64") as region, region.read_lock() as view:
        return view[0]


def disturb(database: Server, proxy: Proxy | None, how: str) -> None:
    """Do it; only sessions are ended in a server that is not ours."""
    if how == "black hole" and proxy is not None:
        proxy.black_hole()
        proxy.wait_until_thrown()
        end = monotonic() + 3 * INTERVAL  # so long that a holder gives its lock up
        wait_until(lambda: monotonic() > end)
        proxy.cut()
        proxy.forward()
        return
    if how == "sessions":
        database.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'shm_async'"
        )
        return
    if not database.ours:
        return
    database.stop(signal.SIGINT if how == "fast" else signal.SIGQUIT)
    database.start()


@pytest.fixture
def proxy(database: Server) -> Iterator[Proxy | None]:
    """Before the server, unless that is elsewhere."""
    if not database.ours:
        yield None
        return
    proxy = Proxy(database.port)
    yield proxy
    proxy.close()


STIRS = ["kill", "sessions", "black hole", "kill", "fast", "black hole", "sessions", "kill",
         "immediate", "kill", "black hole"]  # fmt: skip


def test_each_increment_is_told_once_and_found(
    address: str, database: Server, proxy: Proxy | None, tmp_path: Path
):
    """Every third worker runs trio, and every second one reaches the server by the proxy."""
    rng = random.Random(16)
    workers: list[Worker] = []
    everyone: list[Worker] = []
    by_proxy = address
    if proxy is not None:
        by_proxy = f"{database.url_by(proxy.port)}#{address.partition('#')[2]}"

    def start() -> None:
        number = len(everyone)
        backend = "asyncio" if number % 3 else "trio"
        place = by_proxy if number % 2 else address
        workers.append(Worker(WORKER, place, tmp_path / str(number), backend))
        everyone.append(workers[-1])

    for _ in range(4):
        start()
    for how in STIRS:
        before = sum(each.told(b"+") for each in everyone)
        wait_until(lambda n=before: sum(each.told(b"+") for each in everyone) > n + 30, 20)
        if how == "kill":
            workers.pop(rng.randrange(len(workers))).kill()
            start()
        else:
            disturb(database, proxy, how)
    for worker in workers:
        worker.kill()
    told = sum(each.told(b"+") for each in everyone)
    perhaps = sum(each.unsettled() for each in everyone)
    assert told <= value_of(address) <= told + perhaps


def test_the_lock_of_a_killed_writer_is_free_at_once(address: str, tmp_path: Path):
    took = []
    with open_region(address, 4, dtype="uint64") as region:
        for _ in range(10):
            holder = Worker(HOLDER, address, tmp_path / "holder")
            wait_until(lambda each=holder: each.told(b"!") == 1)
            os.kill(holder.process.pid, signal.SIGKILL)
            began = monotonic()
            with region.write_lock(timeout=5) as view:
                took.append(monotonic() - began)
                assert view[0] == 0
            holder.kill()
    assert sorted(took)[5] < 0.1, took
    assert max(took) < 2, took
