"""Fixtures for regions that are resized."""

import pytest
from traces import temporary_objects
from waits import wait_until

from shm_async import (
    Region,
)


@pytest.fixture
def other(region: Region, name: str):
    """A second attachment of the same region, that follows."""
    with Region.attach(name, follow=True) as other:
        yield other


@pytest.fixture(autouse=True)
def no_temporary_object_is_left():
    before = temporary_objects()
    yield
    # a test that runs beside this one may be resizing at this moment
    wait_until(lambda: set(temporary_objects()) <= set(before))
