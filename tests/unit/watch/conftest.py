"""Fixtures for watching: another process that writes and watches."""

from collections.abc import Iterator

import pytest
from watchers import Peer

from shm_async import (
    Region,
)


@pytest.fixture
def peer(region: Region) -> Iterator[Peer]:
    peer = Peer(region)
    yield peer
    peer.end()
