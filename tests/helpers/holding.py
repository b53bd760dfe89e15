"""The holders and waiters of a region, told in short."""

import os
from pathlib import Path

from shm_async import Holder, Region

COMMAND = Path("/proc/self/comm").read_text().rstrip("\n")


def me(region: Region) -> list[Holder]:
    return [each for each in region.holders() if each.pid == os.getpid()]


def kinds(region: Region) -> list[tuple[int | None, str | None, bool]]:
    return [(each.pid, each.kind, each.waiting) for each in region.holders()]


def waiting(region: Region) -> list[tuple[int | None, str | None]]:
    return [(each.pid, each.kind) for each in region.holders() if each.waiting]
