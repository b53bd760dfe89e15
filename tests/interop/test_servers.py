"""Web servers share a region over real HTTP: every increment that was acknowledged is there.

Also when their workers are killed in the middle of it.
"""

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import anyio
import httpx
import pytest
from peers import missing
from privileges import can
from sessions import PATIENCE, free_port, processes_of, session
from waits import wait_until

from shm_async import Region

pytestmark = [pytest.mark.once, pytest.mark.long]


APPS = Path(__file__).parent / "servers"


COUNT, BOOKED = 0, 1


CLIENTS = 16  # that send at the same time


@dataclass(frozen=True)
class Server:
    """A server's command line, without the address."""

    module: str
    arguments: tuple[str, ...]
    bind: str = "--bind={address}"
    needs: tuple[str, ...] = ()
    user: str | None = None  # that it becomes, after it has started as root
    replaces: int = 2  # workers killed within seconds, before it takes them for a crash loop


GUNICORN = ("--workers=2", "--log-level=warning", "--no-control-socket")


UVICORN_WORKER = ("--worker-class=uvicorn_worker.UvicornWorker",)


GRANIAN = ("--workers=2", "--log-level=warning", "--respawn-failed-workers")


SERVERS = {
    "gunicorn, sync": Server("gunicorn", (*GUNICORN, "wsgi:app")),
    "gunicorn, sync, preloaded": Server("gunicorn", (*GUNICORN, "--preload", "wsgi:app")),
    "gunicorn, threads, preloaded": Server(
        "gunicorn", (*GUNICORN, "--preload", "--threads=4", "wsgi:app")
    ),
    "gunicorn, sync, preloaded, as another user": Server(
        "gunicorn",
        (*GUNICORN, "--preload", "--user=nobody", "--group=nogroup", "wsgi:app"),
        user="nobody",
    ),
    "gunicorn, threads, preloaded, as another user": Server(
        "gunicorn",
        (*GUNICORN, "--preload", "--threads=4", "--user=nobody", "--group=nogroup", "wsgi:app"),
        user="nobody",
    ),
    "gunicorn, uvicorn's worker": Server(
        "gunicorn", (*GUNICORN, *UVICORN_WORKER, "asgi:app"), needs=("uvicorn_worker",)
    ),
    "gunicorn, uvicorn's worker, preloaded": Server(
        "gunicorn",
        (*GUNICORN, *UVICORN_WORKER, "--preload", "asgi_at_import:app"),
        needs=("uvicorn_worker",),
    ),
    "uvicorn": Server(
        "uvicorn",
        ("--workers=2", "--log-level=warning", "--no-access-log", "asgi:app"),
        bind="--port={port}",
    ),
    "granian, ASGI": Server(
        "granian",
        (*GRANIAN, "--interface=asgi", "--respawn-interval=0.1", "asgi:app"),
        bind="--port={port}",
        replaces=1,
    ),
    "granian, WSGI": Server(
        "granian",
        (*GRANIAN, "--interface=wsgi", "--respawn-interval=0.1", "wsgi:app"),
        bind="--port={port}",
        replaces=1,
    ),
    "hypercorn": Server(
        "hypercorn", ("--workers=2", "--log-level=warning", "asgi:app"), replaces=0
    ),
}


@pytest.fixture(params=SERVERS.values(), ids=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """One of the servers. Where it is not installed the test says so, and fails in CI."""
    for module in (request.param.module, *request.param.needs):
        if find_spec(module) is None:
            missing(
                f"{module} IS NOT INSTALLED, nothing was tried with it: it is in the extra test"
            )
    if request.param.user is not None and (why := can("another user")):
        pytest.skip(f"it cannot become another user: {why}")
    return request.param


# ---- starting and stopping ----------------------------------------------------------------


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> int:
        """Ask it to stop: its status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def running(server: Server, region: Region, log: Path) -> Iterator[Running]:
    port = free_port()
    bind = server.bind.format(address=f"127.0.0.1:{port}", port=port)
    variables = {
        "COUNTING_REGION": region.name,
        **({} if server.user is None else {"COUNTING_USER": server.user}),
        "PYTHONPATH": f"{APPS}:{os.environ.get('PYTHONPATH', '')}",
    }
    command = ("-m", server.module, bind, *server.arguments)
    with session(*command, log=log, variables=variables, cwd=APPS) as process:
        yield Running(process, f"http://127.0.0.1:{port}/", log)


# ---- clients --------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the clients know: who answered how often, and how many requests failed."""

    acknowledged: Counter[int] = field(default_factory=Counter)  # by worker
    failed: int = 0


async def send(http: httpx.AsyncClient, tally: Tally, path: str = "/") -> bool:
    try:
        response = await http.get(path)
    except httpx.TransportError:
        tally.failed += 1
        return False
    if response.status_code != 200:
        tally.failed += 1
        return False
    tally.acknowledged[int(response.text)] += 1
    return True


async def until_it_answers(http: httpx.AsyncClient, tally: Tally, running: Running) -> None:
    """Wait until the server listens; what is refused before that counts for nothing."""
    with anyio.fail_after(PATIENCE):
        while running.process.poll() is None:
            try:
                response = await http.get("/")
            except httpx.ConnectError:
                await anyio.sleep(0.02)
                continue
            assert response.status_code == 200, running.log.read_text()
            tally.acknowledged[int(response.text)] += 1
            return
    raise AssertionError(f"it has ended:\n{running.log.read_text()}")


def client(running: Running) -> httpx.AsyncClient:
    # no connection is kept: so every request may go to any worker
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=running.url, limits=limits, timeout=PATIENCE)


async def send_many(http: httpx.AsyncClient, tally: Tally, count: int) -> None:
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await send(http, tally)

    async with anyio.create_task_group() as group:
        for _ in range(CLIENTS):
            group.start_soon(one_after_the_other)


# ---- the tests --------------------------------------------------------------------------------


@pytest.fixture
def counters(server: Server, name: str) -> Iterator[Region]:
    with Region.create(name, 2, dtype="uint64", user=server.user) as region:
        yield region


def test_the_workers_of_a_server_count_exactly_and_stop_when_told(
    server: Server, counters: Region, tmp_path: Path
):
    tally = Tally()

    async def drive(running: Running) -> None:
        async with client(running) as http:
            await until_it_answers(http, tally, running)
            await send_many(http, tally, 300)
            with anyio.fail_after(PATIENCE):
                while len(tally.acknowledged) < 2:  # the second worker may start late
                    await send_many(http, tally, CLIENTS)

    with running(server, counters, tmp_path / "log") as served:
        anyio.run(drive, served)
        status = served.stop()
        wait_until(lambda: not processes_of(served.process.pid))
    log = served.log.read_text()
    assert (tally.failed, len(tally.acknowledged)) == (0, 2), log
    assert status in (0, -signal.SIGTERM), log
    assert "Traceback" not in log
    with counters.read_lock() as view:
        assert view.tolist() == [tally.acknowledged.total()] * 2


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.001)


def demand_all_counted(counters: Region, tally: Tally, served: Running) -> None:
    """Each acknowledged increment is there, and at most those that failed beside them."""
    again = Region.attach(counters.name, owner="any", on_owner_death=repair)
    with again as region, region.read_lock() as view:
        count, booked = view.tolist()
    assert count == booked
    least = tally.acknowledged.total()
    assert least + 1 <= count <= least + tally.failed, served.log.read_text()


def test_no_acknowledged_increment_is_lost_when_workers_are_killed(
    server: Server, counters: Region, tmp_path: Path
):
    tally = Tally()

    async def load(http: httpx.AsyncClient, done: anyio.Event) -> None:
        while not done.is_set():
            if not await send(http, tally):
                await anyio.sleep(0.005)

    async def kill_one_at_any_moment() -> None:
        os.kill(max(tally.acknowledged, key=tally.acknowledged.__getitem__), signal.SIGKILL)

    async def both_work() -> None:
        """Wait until it has answered a while, and two workers have."""
        before = tally.acknowledged.copy()
        await until(lambda: (tally.acknowledged - before).total() >= 100)
        await until(lambda: len(tally.acknowledged - before) >= 2)

    async def drive(running: Running) -> None:
        done = anyio.Event()
        async with client(running) as http, anyio.create_task_group() as group:
            await until_it_answers(http, tally, running)
            for _ in range(CLIENTS):
                group.start_soon(load, http, done)
            await both_work()
            if server.replaces > 1:
                await kill_one_at_any_moment()
                await both_work()
            assert not await send(http, tally, "/die")  # kills one in the middle
            if server.replaces:
                await both_work()
            else:  # it stops
                await until(lambda: running.process.poll() is not None)
            done.set()

    with running(server, counters, tmp_path / "log") as served:
        anyio.run(drive, served)
        served.stop()
        wait_until(lambda: not processes_of(served.process.pid))
    demand_all_counted(counters, tally, served)


def repair(hold) -> None:
    hold.view[BOOKED] = hold.view[COUNT]
