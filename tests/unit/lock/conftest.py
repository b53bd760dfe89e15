"""Fixtures for locks."""

from collections.abc import Iterator

import pytest

from shm_async import Region


@pytest.fixture
def raw(name: str) -> Iterator[Region]:
    """A region without a hint: nobody sees who stands at the gate, but by trying."""
    with Region.create(name, 64, layout="raw") as raw:
        yield raw


@pytest.fixture(params=["one region", "two regions"])
def second(region: Region, other: Region, request: pytest.FixtureRequest) -> Region:
    """Through which the lock is asked for again."""
    return other if request.param == "two regions" else region
