"""System V segments of others, and those whose creation is under way."""

import contextlib
import errno
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sysv_ipc
from peers import fresh_key
from sysv_segments import companion, foreign, remove
from traces import our_descriptors

from shm_async import (
    LockTimeoutError,
    Region,
    RegionExistsError,
    RegionFormatError,
    RegionSizeError,
    _native,
)
from shm_async._memory import presence, sysv

# ---- segments of others ------------------------------------------------------------------------


def test_a_foreign_segment_gets_its_companion_from_the_first_who_locks_it(key: int):
    number = foreign(key, 24, 0o640)
    with Region.attach(key, dtype="uint64") as region, Region.attach(key) as other:
        assert (region.layout, region.shape, region.id) == ("raw", (3,), number)
        assert not companion(key).exists()
        with region.write_lock():
            assert stat.S_IMODE(companion(key).stat().st_mode) == 0o640
            with pytest.raises(LockTimeoutError), other.write_lock(timeout=0.01):
                pass
        region.unlink()


def test_a_companion_goes_with_a_segment_that_others_removed(key: int):
    foreign(key, 8)
    with Region.attach(key) as region, Region.attach(key) as other:
        with region.write_lock():
            pass
        with other.write_lock():
            pass
        _native.sysv_remove(region.id)
        assert companion(key).exists()
    assert not companion(key).exists()


def test_a_companion_that_a_crash_left_is_taken_over(key: int):
    companion(key).touch(0o644)
    with Region.create(key, 8, mode=0o600) as region:
        assert stat.S_IMODE(companion(key).stat().st_mode) == 0o600
        with region.write_lock():
            pass
        region.unlink()
    assert not companion(key).exists()


def test_a_part_of_a_foreign_segment_can_be_used(key: int):
    foreign(key, 10000)
    with Region.attach(key, 2, dtype="uint32") as region:
        assert region.nbytes == 8
        with pytest.raises(RegionSizeError, match="less than 3000"):
            Region.attach(key, 3000, dtype="uint32")
        with pytest.raises(RegionSizeError, match="no whole number of float64"):
            odd = fresh_key()
            foreign(odd, 9)
            try:
                Region.attach(odd, dtype="float64")
            finally:
                remove(odd)
        region.unlink()


@pytest.mark.parametrize("layout", ["managed", "raw"])
def test_sysv_ipc_reads_what_we_write_and_we_what_it_writes(key: int, layout):
    with Region.create(key, 8, layout=layout) as region:
        theirs = sysv_ipc.SharedMemory(key)
        assert (theirs.id, theirs.number_attached, region.attachments) == (region.id, 2, 2)
        with region.write_lock() as view:
            view[:3] = b"abc"
        assert theirs.read(3) == b"abc"
        theirs.write(b"xyz", offset=5)
        with region.read_lock() as view:
            assert view[5:].tobytes() == b"xyz"
        theirs.detach()
        assert region.attachments == 1
        region.unlink()


def test_we_attach_to_what_sysv_ipc_made(key: int):
    theirs = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, size=24, mode=0o600)
    with Region.attach(key, dtype="float64") as region:
        assert (region.shape, region.id) == ((3,), theirs.id)
        with region.write_lock() as view:
            view[2] = 2.5
        assert struct.unpack_from("d", theirs.read(24), 16) == (2.5,)
        theirs.remove()
        assert not region.linked
    theirs.detach()


# ---- creation in steps -------------------------------------------------------------------------


#: Says when it is about to claim the segment, and then what it has attached to.
ATTACHER = """
import sys
from shm_async import Region
from shm_async._memory import companion, presence
presence.PATIENCE = 60  # for a creator that is stopped for a while
claim = companion.claim
def tell(*arguments):
    print("claiming", flush=True)
    claim(*arguments)
companion.claim = tell
sys.stdin.readline()
with Region.attach(int(sys.argv[1])) as region:
    print(region.layout, region.dtype, flush=True)
"""


def test_who_attaches_waits_until_the_control_page_is_written(key: int, monkeypatch):
    seen = []
    make = sysv._make
    attacher = subprocess.Popen(
        [sys.executable, "-c", ATTACHER, str(key)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert attacher.stdin is not None
    assert attacher.stdout is not None
    monkeypatch.setattr(presence, "PATIENCE", 60)

    def before_anybody_sees_it(*arguments):
        *others, prepare = arguments

        def prepare_slowly(made):
            mapping = prepare(made)
            attacher.stdin.write("\n")  # the segment exists, its page does not
            attacher.stdin.flush()
            assert attacher.stdout.readline() == "claiming\n"
            return mapping

        made = make(*others, prepare_slowly)  # the page is there; before the claim is let go:
        seen.append(attacher.poll())
        return made

    monkeypatch.setattr(sysv, "_make", before_anybody_sees_it)
    with Region.create(key, 4, dtype="float64") as region:
        assert attacher.communicate(timeout=20)[0] == "managed float64\n"
        assert seen == [None]
        region.unlink()


def test_a_creator_that_died_half_way_is_told_of(key: int):
    program = f"""
import os
from shm_async import Region, _native
from shm_async._memory import sysv_segment
def die(*arguments, **keywords):
    os._exit(7)
sysv_segment.SysvSegment.map = die
Region.create({key}, 4)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == 7
    with pytest.raises(RegionFormatError, match="creator died.*prune"):
        Region.attach(key)
    with pytest.raises(RegionExistsError):
        Region.create(key, 4)
    remove(key)
    with Region.create(key, 4) as region:
        region.unlink()


def test_a_creation_that_fails_leaves_nothing(key: int):
    before = our_descriptors()
    with pytest.raises(OSError, match="RLIMIT_MEMLOCK"), limited_memlock():
        Region.create(key, 2**20, lock_memory=True)
    assert _native.sysv_find(key) == -errno.ENOENT
    assert not companion(key).exists()
    assert our_descriptors() == before


@contextlib.contextmanager
def limited_memlock() -> Iterator[None]:
    """No mlock, whoever we are: root may lock any number of bytes."""
    original = _native.lock_memory
    _native.lock_memory = lambda *_: -errno.ENOMEM
    try:
        yield
    finally:
        _native.lock_memory = original
