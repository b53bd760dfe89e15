"""A lock that is taken again at once, within the time in which fewer things are checked."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rivals import Rival

from shm_async import Region, RegionSizeError


def at_once(region: Region) -> Any:
    """The handle of the thread's lock, as if it had been released just now."""
    handle = region._table.pool.free[-1].handle
    handle.since = time.monotonic_ns() + 10**9
    return handle


@pytest.fixture
def used(region: Region) -> Region:
    """A region whose lock this thread has had."""
    with region.write_lock():
        pass
    return region


@pytest.fixture
def put_in_its_place(used: Region) -> Iterator[Callable[[Path], None]]:
    """Close the lock's descriptor, and open a file with its number."""
    numbers: list[int] = []

    def put(path: Path) -> None:
        handle = at_once(used)
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, handle.fd)
        os.close(opened)
        numbers.append(handle.fd)

    yield put
    for number in numbers:
        os.close(number)


@pytest.mark.parametrize("size", [0, 1, 100_000])
@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
def test_no_other_file_is_locked_in_its_place(
    used: Region,
    rival: Rival,
    put_in_its_place: Callable[[Path], None],
    tmp_path: Path,
    kind: str,
    size: int,
):
    other = tmp_path / "other"
    other.write_bytes(b"x" * size)
    put_in_its_place(other)
    with getattr(used, kind)():
        assert rival.do("try-exclusive") == "busy"
        again = os.open(other, os.O_RDWR)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)


def test_an_object_that_became_longer_is_still_its_own(used: Region, rival: Rival):
    handle = at_once(used)
    number = handle.fd
    rival.do(f"truncate {handle.size + 4096}")
    for _ in range(3):
        at_once(used)
        with used.write_lock() as view:
            view[0] += 1
            assert rival.do("try-exclusive") == "busy"
    assert handle.fd == number
    assert used.snapshot()[0] == 3


def test_an_object_that_became_shorter_is_an_error_each_time(used: Region, rival: Rival):
    rival.do("truncate 100")
    for _ in range(3):
        at_once(used)
        with pytest.raises(RegionSizeError), used.write_lock():
            raise AssertionError("its memory is gone")
    assert rival.do("try-exclusive") == "done"
