"""What tests of regions in PostgreSQL share."""

from collections.abc import Callable, Iterator

import pytest
from databases import INTERVAL, Server
from proxies import Proxy

from shm_async import SharedRegion, open_region

OpenOne = Callable[..., SharedRegion]


@pytest.fixture
def proxy(database: Server) -> Iterator[Proxy]:
    """A proxy before the server."""
    if not database.ours:
        pytest.skip("a proxy needs a server on this host")
    proxy = Proxy(database.port)
    yield proxy
    proxy.close()


@pytest.fixture
def open_one(address: str) -> OpenOne:
    """Open the region of the test, with more options."""

    def open_one(**options: object) -> SharedRegion:
        options = {"check_interval": INTERVAL, "connect_timeout": 5.0, **options}
        return open_region(address, 4, dtype="uint64", **options)

    return open_one


@pytest.fixture
def open_by_proxy(database: Server, proxy: Proxy, address: str) -> OpenOne:
    """Open the region of the test, by the proxy."""

    def open_by_proxy(**options: object) -> SharedRegion:
        options = {"check_interval": INTERVAL, "connect_timeout": 5.0, **options}
        name = address.rpartition("#")[2]
        url = database.url_by(proxy.port)
        return open_region(f"{url}#{name}", 4, dtype="uint64", **options)

    return open_by_proxy
