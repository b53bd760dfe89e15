"""A Region with the face of posix_ipc's SharedMemory, as far as regions have what it shows.

Left out on purpose: objects of no size, resizing, O_TRUNC (a region never changes its size:
under a mapping that is SIGBUS), and the descriptor (who closes it, or takes its flock,
would pull the region's rug).
"""

import secrets

from shm_async import Region, RegionExistsError, RegionNotFoundError

O_CREAT = 1
O_EXCL = 2
O_CREX = O_CREAT | O_EXCL


class ExistentialError(Exception):
    """It is there and should not be, or the other way round."""


class SharedMemory:
    def __init__(
        self,
        name: str | None,
        flags: int = 0,
        mode: int = 0o600,
        size: int = 0,
        read_only: bool = False,
    ) -> None:
        name = name or f"/shm-async-test-{secrets.token_hex(8)}"
        self.region = translate(open_region, name, flags, mode, size, read_only)
        self.name = f"/{self.region.name}"
        self.size = self.region.nbytes

    def view(self) -> memoryview:
        return self.region.buffer

    def close(self) -> None:
        self.region.close()

    def unlink(self) -> None:
        translate(self.region.unlink)


def open_region(name: str, flags: int, mode: int, size: int, read_only: bool) -> Region:
    if flags & O_CREX == O_EXCL:
        raise ValueError("O_EXCL says how to create: add O_CREAT")
    if not flags & O_CREAT:
        return Region.attach(name, size or None, readonly=read_only)
    if flags & O_EXCL:
        return Region.create(name, size, mode=mode, layout="raw")
    if size:
        return Region.open(name, size, mode=mode, layout="raw")
    return Region.attach(name)


def unlink_shared_memory(name: str) -> None:
    SharedMemoryToUnlink(name).unlink()


class SharedMemoryToUnlink(SharedMemory):
    """Attached just long enough to be unlinked."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.close()


def translate(function, *arguments):
    """Call it, with our errors in posix_ipc's words."""
    try:
        return function(*arguments)
    except (RegionExistsError, RegionNotFoundError) as error:
        raise ExistentialError(str(error)) from error
