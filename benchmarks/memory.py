"""How much shared memory there is room for."""

import os

from benchmarks.place import SHM

MIB = 1 << 20


def size_name(size: int) -> str:
    return f"{size // (1 << 30)} GiB" if size >= 1 << 30 else f"{size // MIB} MiB"


def lack_of_room(size: int) -> str | None:
    """Why a block of that size had better not be made here; None if it may."""
    found = os.statvfs(SHM)
    free = found.f_bavail * found.f_frsize
    if free < size * 1.25:
        return f"{SHM} has {free // MIB} MiB free"
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvail"))
    if available * 1024 < size * 2:
        return f"{available // 1024} MiB of memory available"
    return None
