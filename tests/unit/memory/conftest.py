"""Fixtures for System V segments."""

import os
from collections.abc import Iterator

import pytest
from sysv_segments import companion, remove, segments


@pytest.fixture
def key() -> Iterator[int]:
    """A key that nobody uses; whatever it leads to at the end is removed."""
    unused = next(key for key in range(0x51AB0000 + os.getpid(), 2**32) if key not in segments())
    yield unused
    assert not companion(unused).exists() or unused in segments(), "a dead companion was left"
    remove(unused)


@pytest.fixture(params=["name", "key"])
def address(request: pytest.FixtureRequest, name: str) -> object:
    """A name or a key: what holds for both is tested with both."""
    return name if request.param == "name" else request.getfixturevalue("key")
