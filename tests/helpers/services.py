"""Starts the services of examples/ as a reader does, and sends them requests."""

import contextlib
import importlib.util
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import anyio
import httpx
from sessions import PATIENCE, free_port, session

EXAMPLES = Path(__file__).parents[2] / "examples"


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


@contextlib.contextmanager
def serving(script: str, region: str, log: Path, path: str = "/", **more: str) -> Iterator[Service]:
    """An example with a region name and a port of its own, from its first answer on."""
    port = free_port()
    variables = {f"{script.upper()}_REGION": region, "PORT": str(port), **more}
    url = f"http://127.0.0.1:{port}"
    program = str(EXAMPLES / f"{script}.py")
    try:
        with session(program, log=log, variables=variables) as process:
            service = Service(process, url, log)
            service.until_it_answers(path)
            yield service
    finally:
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
