"""Looking at a region from outside."""

import glob

import shm_async
from shm_async import RegionInfo


def look(name: str, **options: bool) -> RegionInfo:
    """What there is of that name now."""
    found = shm_async.inspect(glob.escape(name), **options)
    assert found, "it is not there"
    return found[0]
