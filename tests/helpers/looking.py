"""Looking at a region from outside."""

import glob
import os
from pathlib import Path

import shm_async
from shm_async import RegionInfo


def look(name: str, **options: bool) -> RegionInfo:
    """What there is of that name now."""
    found = shm_async.inspect(glob.escape(name), **options)
    assert found, "it is not there"
    return found[0]


def is_mapped(identity: tuple[int, int]) -> bool:
    """Whether this process has that object mapped: st_dev and st_ino, as each device counts."""
    device, inode = identity
    place = [f"{os.major(device):02x}:{os.minor(device):02x}", str(inode)]
    rows = Path("/proc/self/maps").read_text().splitlines()
    return any(row.split()[3:5] == place for row in rows)
