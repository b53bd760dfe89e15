"""PgBouncer, the Debian package, before a server of the tests."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from databases import PASSWORD, Server

__all__ = ["pgbouncer"]


def _program() -> str:
    """PgBouncer's path; skips the test without, and as root in CI, which installs it, fails."""
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = "no PgBouncer: apt-get install pgbouncer"
        if os.environ.get("TEST_PRIVILEGES") == "all":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def pgbouncer(server: Server, mode: str, folder: Path) -> Iterator[str]:
    """Run it with that pool_mode before the server; yields the address of the database."""
    command = [_program()]
    if os.geteuid() == 0:  # it refuses to run as root
        command += ["-u", "nobody"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    users = folder / "users"
    users.write_text(f'"postgres" "{PASSWORD}"\n')
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port} dbname=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {users}\npool_mode = {mode}\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    _give_to_nobody(folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, settings], stdout=log, stderr=log)
    try:
        address = f"postgresql://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
        _wait_until_it_answers(process, address, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _give_to_nobody(folder: Path) -> None:
    if os.geteuid() != 0:
        return
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + 10
    while not _answers(address):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _answers(address: str) -> bool:
    try:
        psycopg.connect(address, connect_timeout=5, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True
