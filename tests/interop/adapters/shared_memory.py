"""A Region with the face of multiprocessing.shared_memory.SharedMemory.

Left out on purpose: the resource tracker (nothing is ever removed behind anybody's back, so
there is nothing to track and nothing to warn of), managers, and ShareableList, which is no memory
but a list packed into one.
"""

import contextlib
import importlib
import secrets

from shm_async import Region, RegionExistsError


def _make_filename() -> str:
    return f"/shm-async-test-{secrets.token_hex(8)}"


class SharedMemory:
    def __init__(self, name: str | None = None, create: bool = False, size: int = 0) -> None:
        if create:
            self.region = create_one(name, size)
        elif name is None:
            raise ValueError("which one? name can be None with create=True only")
        else:
            self.region = Region.attach(name, layout="raw")  # all of it, whatever `size` says
        self.name = self.region.name
        self.size = self.region.nbytes
        self.buf: memoryview | None = self.region.buffer

    def close(self) -> None:
        if self.buf is not None:
            self.buf.release()
            self.buf = None
        self.region.close()

    def unlink(self) -> None:
        self.region.unlink()

    def __repr__(self) -> str:
        return f"SharedMemory({self.name!r}, size={self.size})"

    def __reduce__(self):
        return SharedMemory, (self.name, False, self.size)


def create_one(name: str | None, size: int) -> Region:
    if name is not None:
        return Region.create(name, size, layout="raw")
    while True:
        with contextlib.suppress(RegionExistsError):
            return Region.create(_make_filename(), size, layout="raw")


# ---- what other processes do with either library's ------------------------------------


def write_there(memory, data: bytes) -> None:
    """Given the object itself."""
    memory.buf[: len(data)] = data
    memory.close()


def write_by_name(library: str, name: str, data: bytes) -> None:
    """Given its name."""
    write_there(importlib.import_module(library).SharedMemory(name), data)
