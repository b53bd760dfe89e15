"""TLS before the database: what will not pass by is told at once, with what to check."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import trustme
from databases import INTERVAL, Server

from shm_async import RegionServerError, open_region

pytestmark = pytest.mark.once

#: What a client sends that wants TLS.
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"

LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)


class TlsServer:
    """Shakes hands as PostgreSQL with TLS does, and hangs up; `asked` counts its clients."""

    def __init__(self, certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        if clients is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            clients.configure_trust(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.asked = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.asked += 1
            with client, contextlib.suppress(OSError):
                client.settimeout(20)
                assert client.recv(8, socket.MSG_WAITALL) == SSL_REQUEST
                client.sendall(b"S")
                with self._context.wrap_socket(client, server_side=True) as tls:
                    tls.recv(1024)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._listener.close()
        self._thread.join(20)
        assert not self._thread.is_alive()


Serve = Callable[..., TlsServer]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server; all end with the test."""
    servers: list[TlsServer] = []

    def serve(*arguments: trustme.LeafCert | trustme.CA) -> TlsServer:
        servers.append(TlsServer(*arguments))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file with the certificate that the client trusts."""
    authority.cert_pem.write_to_path(path := tmp_path / "root.pem")
    return path


async def refused(server: TlsServer, root: Path, says: str, **options: str) -> None:
    """Enter a region there, which is refused at the first try, long before it would give up."""
    words = "".join(f"&{key}={value}" for key, value in options.items())
    url = f"postgresql://u@localhost:{server.port}/d?hostaddr=127.0.0.1&sslmode=verify-full"
    url += f"&sslrootcert={root}{words}#name"
    region = open_region(url, 4, dtype="uint64", connect_timeout=20.0)
    with pytest.raises(RegionServerError, match=rf"no trust .*{says}.* check sslmode"):
        async with region:
            pass
    assert server.asked == 1


async def test_a_server_that_nobody_vouches_for(serve: Serve, trusted: Path):
    server = serve(trustme.CA().issue_cert("localhost"))
    await refused(server, trusted, "certificate verify failed")


async def test_a_certificate_that_has_expired(authority: trustme.CA, serve: Serve, trusted: Path):
    old = authority.issue_cert("localhost", not_before=LONG_AGO, not_after=LONG_AGO)
    await refused(serve(old), trusted, "certificate verify failed")


async def test_a_certificate_for_another_name(authority: trustme.CA, serve: Serve, trusted: Path):
    server = serve(authority.issue_cert("elsewhere.example"))
    await refused(server, trusted, "does not match host name")


async def test_no_file_of_certificates(authority: trustme.CA, serve: Serve, tmp_path: Path):
    server = serve(authority.issue_cert("localhost"))
    await refused(server, tmp_path / "none.pem", "does not exist")


async def test_a_certificate_of_ours_without_its_key(
    authority: trustme.CA, serve: Serve, trusted: Path
):
    server = serve(authority.issue_cert("localhost"))
    await refused(server, trusted, "private key", sslcert=str(trusted), sslkey="/nowhere")


async def test_a_server_that_wants_a_certificate_of_ours(
    authority: trustme.CA, serve: Serve, trusted: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(trusted.parent))  # there are none in ~/.postgresql
    server = serve(authority.issue_cert("localhost"), authority)
    await refused(server, trusted, "certificate required")


async def test_a_host_called_certificate_that_is_down_may_come_up():
    url = "postgresql://u@certificate/d?hostaddr=127.0.0.1&port=1"
    with pytest.raises(RegionServerError, match="cannot be reached"):
        async with open_region(f"{url}#name", 4, dtype="uint64", connect_timeout=0.1):
            pass


async def test_a_server_without_tls(address: str, database: Server):
    if not database.ours:
        pytest.skip("the tests' own server has no TLS")
    with pytest.raises(RegionServerError, match="check sslmode in the address"):
        async with open_region(
            re.sub("#", "?sslmode=require#", address), 4, dtype="uint64",
            check_interval=INTERVAL, connect_timeout=20.0,
        ):  # fmt: skip
            pass
