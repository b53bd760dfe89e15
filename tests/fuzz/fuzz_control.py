"""Scripts against a live region's control page, written by a fuzzer that follows the coverage.

`make fuzz` runs it for a minute; arguments are libFuzzer's. It sees which lines of the package
a script reaches, not which of the shim: that is what the sanitizers' build is for.
"""

import os
import sys
from zlib import crc32

import atheris

with atheris.instrument_imports(include=["shm_async"]):
    import hostile

from shm_async import RegionFormatError
from shm_async._memory import control

NAME = f"shm-async-fuzz-{os.getpid()}"
SIZE = control.managed_size(40)


def read_a_page(data: bytes) -> None:
    """Somebody else's last page, and its checksum is right."""
    page = bytearray(control.pack(shape=(5,), dtype="int64", sparse=False))
    page[16 : 16 + len(data)] = data[:112]
    page[124:128] = crc32(page[16:124]).to_bytes(4, sys.byteorder)
    try:
        control.unpack(bytes(page), SIZE, "x")
    except RegionFormatError:
        pass


def play(script: bytes) -> None:
    hostile.play(NAME, script)


def play_async(script: bytes) -> None:
    hostile.play_async(NAME, script)


KINDS = (read_a_page, play, play_async)


def one(data: bytes) -> None:
    if data:
        KINDS[data[0] % len(KINDS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
