"""Sends requests to web_counter.py, has some clients hang up, and reports what came out.

    make demo
    python examples/web_counter_load.py [--requests 2000] [--workers 4]

Starts uvicorn with four worker processes that share one region, sends it 2,000
requests and stops it. Most requests increment the counter, some read it, and some clients hang up
while their handler waits for the write lock. The exit status is 0 only if the numbers add
up and such waits were really cancelled.
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
import httpx
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from web_counter import (
    CANCELLED,
    COUNT,
    LENGTH,
    MAX_WORKERS,
    PIDS,
    REGION_VARIABLE,
    TALLIES,
    add_one,
    answer,
    app,
)

from shm_async import Region

# ---- the app, and a handler that keeps the lock for long -----------------------------


async def increment_slowly(request: Request) -> Response:
    """Keep the lock while the body comes in. Not to be imitated: everybody waits."""
    try:
        async with request.state.region.write_lock() as view:
            return answer(await add_one(view, request.state.worker, meanwhile=request.body()))
    except ClientDisconnect:  # raised in the block: nothing was added, the lock is free
        return Response(status_code=499)


class Timed:
    """Tells in a header how long the handler took, its wait for the lock included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = b"%.6f" % (time.perf_counter() - start)
                message["headers"] = [*message["headers"], (b"seconds", seconds)]
            await send(message)

        await self.app(scope, receive, send_timed)


app.router.routes.append(Route("/slow", increment_slowly, methods=["POST"]))
app.add_middleware(Timed)

# ---- the clients ---------------------------------------------------------------------

CLIENTS = 50  # at once
IMPATIENT = 4  # requests per slow one whose client gives up...
PATIENCE = httpx.Timeout(30, read=0.01)  # ...10 ms after it was sent


@dataclass
class Results:
    """What the clients saw."""

    increments: int = 0  # that were answered
    reads: Counter[int] = field(default_factory=Counter)  # that were answered, by the worker's pid
    hung_up: int = 0
    seconds: list[float] = field(default_factory=list)  # of each handler that answered
    plain: set[int] = field(default_factory=set)  # what /plain says, depending on who answers


@dataclass(frozen=True)
class Client:
    """One of the clients, and what it can do."""

    http: httpx.AsyncClient
    results: Results  # of all clients
    advance: Callable[[], None]  # the progress bar

    async def increment(self, path: str = "/increment", **options: Any) -> None:
        await self.ask("POST", path, **options)
        self.results.increments += 1

    async def read(self) -> None:
        worker = await self.ask("GET", "/count")
        self.results.reads[worker] += 1

    async def make_others_wait(self) -> None:
        """Send a body slowly, and have others lose patience meanwhile."""

        async def body() -> AsyncIterator[bytes]:
            yield b"wait for it..."
            await anyio.sleep(0.01)  # the handler gets its lock
            async with anyio.create_task_group() as group:
                for _ in range(IMPATIENT):
                    group.start_soon(self.hang_up)
            await anyio.sleep(0.02)  # the workers see that they hung up
            yield b"here it is"

        await self.increment("/slow", content=body())

    async def hang_up(self) -> None:
        try:
            await self.increment(timeout=PATIENCE)
        except httpx.ReadTimeout:
            self.results.hung_up += 1
            self.advance()

    async def ask(self, method: str, path: str, **options: Any) -> int:
        """Send a request and return the pid of the worker that answered."""
        response = await self.http.request(method, path, **options)
        facts = response.raise_for_status().json()
        self.results.seconds.append(float(response.headers["seconds"]))
        self.advance()
        return int(facts["worker"])


Job = Callable[[Client], Awaitable[None]]


def plan(total: int) -> list[Job]:
    """What is to be done, in random order: `total` requests."""
    slow, reads = total // 100, total // 10
    increments = total - reads - slow * (1 + IMPATIENT)
    jobs: list[Job] = [Client.make_others_wait] * slow
    jobs += [Client.read] * reads + [Client.increment] * increments
    random.shuffle(jobs)
    return jobs


def connect(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, verify=False)


async def send_requests(url: str, total: int) -> Results:
    results = Results()
    jobs = iter(plan(total))  # one iterator for all clients: each takes the next job

    async def work(advance: Callable[[], None]) -> None:
        async with connect(url) as http:
            client = Client(http, results, advance)
            for job in jobs:
                await job(client)

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn()) as progress:
        advance = partial(progress.advance, progress.add_task("requests", total=total))
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(work, advance)
                await anyio.sleep(0.01)  # all at once, and one worker would accept the most
    return results


async def ask_for_plain_counts(url: str) -> set[int]:
    """A new connection each time, so that different workers answer."""
    counts = set()
    for _ in range(20):
        async with connect(url) as http:
            counts.add((await http.get("/plain")).json()["count"])
    return counts


# ---- the server and its region -------------------------------------------------------


@contextmanager
def fresh_region() -> Iterator[Region]:
    """A new region that is gone afterwards, whatever happens."""
    with Region.create(f"web-counter-{os.getpid()}", LENGTH, dtype="uint64") as region:
        try:
            yield region
        finally:
            region.unlink()


@contextmanager
def free_port() -> Iterator[int]:
    """A port of the loopback interface that nobody else is given meanwhile."""
    with socket.socket() as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(("127.0.0.1", 0))
        yield placeholder.getsockname()[1]


@contextmanager
def uvicorn(region: Region, workers: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The server. It is told to stop when the block ends, and finishes what it is at."""
    here = Path(__file__)
    command = [sys.executable, "-m", "uvicorn", f"{here.stem}:app", "--app-dir", str(here.parent)]
    command += ["--workers", str(workers), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", "warning", "--no-access-log"]
    server = subprocess.Popen(
        command,
        env={**os.environ, REGION_VARIABLE: region.name},
        start_new_session=True,  # Ctrl-C reaches us alone: we stop the server
    )
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


async def until_ready(
    region: Region, workers: int, server: subprocess.Popen[bytes], url: str
) -> None:
    """Wait until every worker has taken its place and the server answers."""
    ready = False
    while not ready:
        await anyio.sleep(0.05)
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        async with region.read_lock() as view:
            started = MAX_WORKERS - view[PIDS].tolist().count(0)
        ready = started >= workers and await answers(url)


async def answers(url: str) -> bool:
    try:
        async with connect(url) as http:
            return (await http.get("/count")).is_success
    except httpx.ConnectError:
        return False


async def drive(
    region: Region, server: subprocess.Popen[bytes], url: str, options: argparse.Namespace
) -> Results:
    with anyio.fail_after(30):
        await until_ready(region, options.workers, server, url)
    results = await send_requests(url, options.requests)
    results.plain = await ask_for_plain_counts(url)
    return results


# ---- the report ----------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """What stands in the region at the end."""

    total: int
    cancelled: int
    pids: list[int]
    tallies: list[int]  # what each worker has added to the total

    @classmethod
    def of(cls, region: Region) -> "Count":
        with region.read_lock() as view:  # the same lock, without an event loop
            pids = [pid for pid in view[PIDS].tolist() if pid]
            tallies = view[TALLIES].tolist()[: len(pids)]
            return cls(view[COUNT], view[CANCELLED], pids, tallies)

    def is_exact(self, results: Results) -> bool:
        """Whether it is what the workers did, and what the clients may have seen."""
        least, most = results.increments, results.increments + results.hung_up
        return self.total == sum(self.tallies) and least <= self.total <= most


def sums(count: Count, results: Results) -> Table:
    """Every request once: each column adds up to its last row."""
    reads = [results.reads[pid] for pid in count.pids]
    sent = results.increments + results.reads.total() + results.hung_up
    table = Table("", box=box.ROUNDED, show_footer=False)
    for title in ("increments", "reads", "requests"):
        table.add_column(title, justify="right")
    for pid, added, read in zip(count.pids, count.tallies, reads, strict=True):
        table.add_row(f"worker {pid}", f"{added}", f"{read}", f"{added + read}")
    gave_up = sent - sum(count.tallies) - sum(reads)
    table.add_row("hung up before their turn", "", "", f"{gave_up}", end_section=True)
    table.add_row("sum", f"{sum(count.tallies)}", f"{sum(reads)}", f"{sent}")
    return table


def facts(count: Count, results: Results) -> Table:
    plain = ", ".join(map(str, sorted(results.plain)))
    percentiles = [f"{second * 1000:.1f} ms" for second in quantiles(results.seconds, n=100)]
    exact = "EXACT" if count.is_exact(results) else "NOT EXACT"
    table = Table(show_header=False, box=box.ROUNDED)
    table.add_row("counter in shared memory", f"{count.total}: {exact}")
    alike = results.plain == {count.total}
    table.add_row("a plain variable instead", f"{plain}: {'right for once' if alike else 'WRONG'}")
    table.add_row("lock waits cancelled", f"{count.cancelled}" if count.cancelled else "NONE")
    table.add_row("time in the handler", f"median {percentiles[49]}, p99 {percentiles[98]}")
    return table


WHY = (
    "Each worker is a process of its own, so a plain variable counts only what that worker did. "
    "The region is one block of memory that all of them map; its write lock lets each increment "
    "finish before the next one reads."
)


def report(region: Region, results: Results) -> bool:
    """Print what came out. Returns whether the count is exact and waits were cancelled."""
    count = Count.of(region)
    console = Console(width=min(Console().width, 80))
    console.print(sums(count, results), facts(count, results), WHY, sep="\n")
    return count.is_exact(results) and count.cancelled > 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count web requests in shared memory.")
    parser.add_argument("--requests", type=int, default=2000, help="at least 100 (%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help=f"1 to {MAX_WORKERS} (%(default)s)")
    options = parser.parse_args()
    if options.requests < 100 or not 1 <= options.workers <= MAX_WORKERS:
        parser.error("--requests or --workers is out of range")
    return options


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # as Ctrl-C
    with fresh_region() as region:
        with free_port() as port, uvicorn(region, options.workers, port) as server:
            results = anyio.run(drive, region, server, f"http://127.0.0.1:{port}", options)
        return 0 if report(region, results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):  # Python 3.10 makes the one of the other
        sys.exit(130)
