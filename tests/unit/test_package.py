"""The package: its public names, its errors, and how it behaves at import and exit."""

import pytest

import shm_async


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("RegionExistsError", FileExistsError),
        ("RegionNotFoundError", FileNotFoundError),
        ("RegionClosedError", ValueError),
        ("RegionFormatError", ValueError),
        ("RegionReplacedError", OSError),
        ("RegionSizeError", ValueError),
        ("OwnerDiedError", RuntimeError),
        ("LockTimeoutError", TimeoutError),
        ("WouldBlockError", BlockingIOError),
    ],
)
def test_plain_except_catches_our_errors(error: str, builtin: type[Exception]):
    assert issubclass(getattr(shm_async, error), (shm_async.ShmError, builtin))
    assert issubclass(getattr(shm_async, error), builtin)


def test_importing_needs_no_extras_and_starts_nothing(run_python):
    program = """
import os, sys
sys.modules["trio"] = sys.modules["uvloop"] = sys.modules["numpy"] = None
import shm_async
assert len(os.listdir("/proc/self/task")) == 1
region = shm_async.Region.create(sys.argv[1], 1)
import anyio
async def main():
    async with region.write_lock() as view:
        view[0] += 1
anyio.run(main)
assert len(os.listdir("/proc/self/task")) == 1
"""
    done = run_python(program)
    assert done.stderr == ""


def test_a_region_left_open_at_exit_is_no_noise(run_python):
    done = run_python("import sys, shm_async; r = shm_async.Region.create(sys.argv[1], 1)")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
