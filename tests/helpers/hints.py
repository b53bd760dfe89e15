"""The hint in the control page that somebody stands at the gate."""

from pathlib import Path

from shm_async import Region

__all__ = ["hint", "set_hint"]

HINT = 4096 + 192  # where the control page of a region on POSIX shared memory has it


def hint(region: Region) -> int:
    with Path(f"/dev/shm/{region.name}").open("rb") as file:
        return file.seek(HINT) and file.read(1)[0]


def set_hint(region: Region, value: int) -> None:
    with Path(f"/dev/shm/{region.name}").open("r+b") as file:
        file.seek(HINT)
        file.write(bytes([value]))
