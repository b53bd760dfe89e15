"""Fixtures for locks."""

import pytest

from shm_async import Region


@pytest.fixture(params=["one region", "two regions"])
def second(region: Region, other: Region, request: pytest.FixtureRequest) -> Region:
    """Through which the lock is asked for again."""
    return other if request.param == "two regions" else region
