"""Several web workers, one counter in shared memory: exact, although clients hang up.

    pip install "shm-async[demo]"
    python examples/web_counter.py [--requests 2000] [--workers 4]

Starts uvicorn with four worker processes that share one region, sends it 2,000
requests, stops it and prints what came out. Some clients lose patience while their
handler waits for the write lock: the handler then leaves the queue. The exit status
is 0 only if the count is exact and such waits were really cancelled.

The app comes first (what you would write), then its clients, the server, the report.
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
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import anyio
import httpx
from anyio.lowlevel import checkpoint
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shm_async import Region

# ---- the region: what stands where ---------------------------------------------------

MAX_WORKERS = 16
COUNT = 0  # what it is all about
CANCELLED = 1  # waits for the lock that ended because the client had hung up
PIDS = slice(2, 2 + MAX_WORKERS)  # the workers
TALLIES = slice(2 + MAX_WORKERS, 2 + 2 * MAX_WORKERS)  # increments that each of them finished
LENGTH = TALLIES.stop

REGION_VARIABLE = "WEB_COUNTER_REGION"  # in the environment: tells the workers its name

# ---- the app: runs in every worker ---------------------------------------------------

plain_count = 0  # the usual mistake: every worker has a variable of its own


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Attach to the region and take a place in it."""
    async with Region.attach(os.environ[REGION_VARIABLE]) as region:
        async with region.write_lock() as view:
            worker = view[PIDS].tolist().index(0)
            view[PIDS][worker] = os.getpid()
        yield {"region": region, "worker": worker}


@asynccontextmanager
async def cancelled_on_hang_up(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client hangs up; the server does not do that for us."""

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        yield
        group.cancel_scope.cancel()  # the block is done: stop watching


async def increment(request: Request) -> Response:
    start = time.perf_counter()
    region, worker = request.state.region, request.state.worker
    async with cancelled_on_hang_up(request):
        async with region.write_lock() as view:
            with anyio.CancelScope(shield=True):  # it is our turn: finish, client or not
                count = await add_one(view, worker, meanwhile=checkpoint())
        return answer(start, count)
    async with region.write_lock() as view:  # we get here only if the wait was cancelled
        view[CANCELLED] += 1
    return Response(status_code=499)  # as nginx says: client closed request


async def increment_slowly(request: Request) -> Response:
    """Keep the lock while the body comes in. Not to be imitated: everybody waits."""
    start = time.perf_counter()
    try:
        async with request.state.region.write_lock() as view:
            count = await add_one(view, request.state.worker, meanwhile=request.body())
    except ClientDisconnect:  # raised in the block: nothing was added, the lock is free
        return Response(status_code=499)
    return answer(start, count)


async def add_one(view: memoryview, worker: int, meanwhile: Awaitable[object]) -> int:
    """Read, let others run, write: without the lock, increments would get lost."""
    global plain_count
    seen = view[COUNT]
    await meanwhile
    view[COUNT] = seen + 1
    view[TALLIES][worker] += 1
    plain_count += 1
    return seen + 1


async def read(request: Request) -> Response:
    start = time.perf_counter()
    async with request.state.region.read_lock() as view:
        count = view[COUNT]
    return answer(start, count)


async def read_plain(_request: Request) -> Response:
    return answer(time.perf_counter(), plain_count)


def answer(start: float, count: int) -> Response:
    seconds = time.perf_counter() - start
    return JSONResponse({"count": count, "worker": os.getpid(), "seconds": seconds})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/increment", increment, methods=["POST"]),
        Route("/slow", increment_slowly, methods=["POST"]),
        Route("/count", read),
        Route("/plain", read_plain),
    ],
)

# ---- the clients ---------------------------------------------------------------------

CLIENTS = 50  # at once
IMPATIENT = 4  # requests per slow one whose client gives up...
PATIENCE = httpx.Timeout(30, read=0.01)  # ...10 ms after it was sent


@dataclass
class Results:
    """What the clients saw."""

    increments: int = 0  # that were answered
    reads: int = 0
    hung_up: int = 0
    seconds: list[float] = field(default_factory=list)  # of each handler that answered
    workers: Counter[int] = field(default_factory=Counter)  # answers by pid
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
        await self.ask("GET", "/count")
        self.results.reads += 1

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

    async def ask(self, method: str, path: str, **options: Any) -> None:
        response = await self.http.request(method, path, **options)
        facts = response.raise_for_status().json()
        self.results.seconds.append(facts["seconds"])
        self.results.workers[facts["worker"]] += 1
        self.advance()


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

WHY = (
    "Each worker is a process of its own, so a plain variable counts only what that worker did; "
    "the region is one block of memory that all of them map, and its write lock lets each "
    "increment finish before the next one reads."
)


def report(region: Region, results: Results) -> bool:
    """Print what came out. Returns whether the count is exact and waits were cancelled."""
    with region.read_lock() as view:  # the same lock, without an event loop
        count, cancelled = view[COUNT], view[CANCELLED]
        pids = [pid for pid in view[PIDS].tolist() if pid]
        tallies = view[TALLIES].tolist()[: len(pids)]
    least, most = results.increments, results.increments + results.hung_up
    exact = count == sum(tallies) and least <= count <= most
    answered = results.increments + results.reads
    plain = " or ".join(map(str, sorted(results.plain)))
    alike = results.plain == {count}
    percentiles = [f"{second * 1000:.1f} ms" for second in quantiles(results.seconds, n=100)]
    table = Table(show_header=False, box=box.ROUNDED, caption=WHY, caption_justify="left")
    for row in (
        ("requests sent", f"{answered + results.hung_up}"),
        ("answered", f"{answered}: {results.increments} increments, {results.reads} reads"),
        ("clients that hung up", f"{results.hung_up}"),
        ("lock waits cancelled", f"{cancelled}" if cancelled else "NONE"),
        ("count in shared memory", f"{count}: {'EXACT' if exact else 'NOT EXACT'}"),
        ("what the workers counted", f"{' + '.join(map(str, tallies))} = {sum(tallies)}"),
        ("what the clients know", f"{least} to {most}: who hung up cannot tell"),
        ("answers by each worker", ", ".join(str(results.workers[pid]) for pid in pids)),
        ("time in the handler", f"p50 {percentiles[49]}, p99 {percentiles[98]}, waits included"),
        ("a plain variable says", f"{plain}: {'right for once' if alike else 'WRONG'}"),
    ):
        table.add_row(*row)
    Console().print(table)
    return exact and cancelled > 0


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
