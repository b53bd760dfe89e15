"""System V segments seen from outside, and those of other programs."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from shm_async import (
    _native,
)

IPC = ctypes.CDLL(None, use_errno=True)


def companion(key: int) -> Path:
    return Path(f"/dev/shm/shm_async.sysv.{key:08x}")


def segments() -> set[int]:
    rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(row.split()[0]) & 0xFFFFFFFF for row in rows}


def remove(key: int) -> None:
    if (number := _native.sysv_find(key)) >= 0:
        _native.sysv_remove(number)
    companion(key).unlink(missing_ok=True)


def foreign(key: int, size: int, mode: int = 0o600) -> int:
    """A segment made by a program that knows nothing of us."""
    number = IPC.shmget(ctypes.c_int(key), ctypes.c_size_t(size), 0o3000 | mode)
    assert number >= 0, os.strerror(ctypes.get_errno())
    return int(number)


def in_another_process(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
