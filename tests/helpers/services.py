"""Starts the services of examples/ as a reader does, and sends them requests."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import anyio
import httpx

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 15.0  # seconds


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self) -> httpx.AsyncClient:
        # no connection is kept: so every request may go to any worker
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=self.url, limits=limits, timeout=PATIENCE)

    def until_it_answers(self, path: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(self.url + path, timeout=PATIENCE)
                return
            time.sleep(0.02)
        raise AssertionError(f"it does not answer:\n{self.log.read_text()}")

    def stop(self) -> str:
        """Ask it to stop, and wait until it has: what it said."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        return self.log.read_text()


def free_port() -> int:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        return placeholder.getsockname()[1]


@contextlib.contextmanager
def serving(script: str, region: str, log: Path, path: str = "/", **more: str) -> Iterator[Service]:
    """An example with a region name and a port of its own, from its first answer on."""
    port = free_port()
    variables = {f"{script.upper()}_REGION": region, "PORT": str(port), **more}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / f"{script}.py")],
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        service.until_it_answers(path)
        yield service
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.terminate()
            process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for entry in os.listdir("/dev/shm"):
            if entry.startswith(region):
                os.unlink(f"/dev/shm/{entry}")


def load(script: str) -> ModuleType:
    """The example as a module, to call what is in it."""
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(name: str) -> list[str]:
    """What is in /dev/shm of a service whose regions begin with that name."""
    return [entry for entry in os.listdir("/dev/shm") if entry.startswith(name)]


async def at_once(clients: int, request: Callable[[], Awaitable[None]], times: int = 1) -> None:
    async def one_after_the_other() -> None:
        for _ in range(times):
            await request()

    async with anyio.create_task_group() as group:
        for _ in range(clients):
            group.start_soon(one_after_the_other)
