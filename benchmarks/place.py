"""Names in /dev/shm that are gone afterwards, and a board of shared numbers."""

import contextlib
import itertools
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

SHM = "/dev/shm"  # where POSIX shared memory lives on Linux


class Place:
    """Hands out names that nobody else uses.

    A name stands for a region, for the lock file of a peer (`lock_file`) and for a
    board. They all start alike, so `clear` removes also what a killed child left behind.
    """

    def __init__(self) -> None:
        self.prefix = f"shm_async-bench-{os.getpid()}-"
        self._numbers = itertools.count()

    def name(self) -> str:
        return f"{self.prefix}{next(self._numbers)}"

    def clear(self) -> None:
        """Remove everything that any of the names was used for."""
        for entry in os.listdir(SHM):
            if entry.startswith(self.prefix):
                with contextlib.suppress(FileNotFoundError):
                    path = f"{SHM}/{entry}"
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def lock_file(name: str) -> str:
    """Where the peers put their lock: on the same file system as our regions.

    In a folder, as some put more beside it, which a killed process leaves.
    """
    folder = f"{SHM}/{name}.peers"
    os.makedirs(folder, exist_ok=True)
    return f"{folder}/lock"


def board_file(name: str) -> str:
    return f"{SHM}/{name}.board"


@contextmanager
def board(name: str, cells: int = 64) -> Iterator[memoryview]:
    """64-bit integers that all processes share, created by the first: stores need no lock."""
    fd = os.open(board_file(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, cells * 8)
        with mmap.mmap(fd, cells * 8) as memory, memoryview(memory).cast("q") as view:
            yield view
    finally:
        os.close(fd)
