import copy
import errno
import gc
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import locked_bytes

import shm_async
from shm_async import Region, RegionClosedError, RegionFormatError, RegionSizeError, WouldBlockError
from shm_async.elements import CODES, HAS_FLOAT16, SIZES

DTYPES = [dtype for dtype in SIZES if HAS_FLOAT16 or dtype != "float16"]


def test_a_region_must_come_from_somewhere():
    with pytest.raises(TypeError, match="Region.create"):
        Region()


# ---- facts -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["managed", "raw", "sized"])
def test_the_facts_are_the_same_on_both_sides(name: str, dtype: str, layout):
    with Region.create(name, 5, dtype=dtype, layout=layout) as region:
        asked = {} if layout == "managed" else {"dtype": dtype, "layout": layout}
        with Region.attach(name, **asked) as other:
            for each in (region, other):
                assert (each.name, each.dtype, each.layout) == (name, dtype, layout)
                assert (len(each), each.nbytes) == (5, 5 * SIZES[dtype])
                assert (each.closed, each.linked, each.readonly) == (False, True, False)
                assert each.buffer.format == CODES[dtype]
                assert list(each.buffer) == [0] * 5
            assert (region.created, other.created) == (True, False)
            with region.write_lock() as view:
                view[4] = 1
            with other.read_lock() as view:
                assert view[4] == 1
                assert bytes(view) == struct.pack(f"5{CODES[dtype]}", 0, 0, 0, 0, 1)


def test_repr_tells_what_it_is(name: str):
    with Region.create(name, 4, dtype="uint64") as region:
        assert repr(region) == f"<Region {name!r}: 4 x uint64, managed, open>"
        with Region.attach(name, readonly=True) as other:
            assert repr(other) == f"<Region {name!r}: 4 x uint64, managed, readonly, open>"
    assert repr(region) == f"<Region {name!r}: 4 x uint64, managed, closed>"


def test_the_generation_counts_write_locks(region: Region):
    assert region.generation == 0
    with region.read_lock():
        assert region.generation == 0
    for count in (1, 2, 3):
        with region.write_lock():
            assert region.generation == 2 * count - 1
        assert region.generation == 2 * count


def test_the_generation_of_a_truncated_region_is_an_error(region: Region, name: str):
    os.truncate(f"/dev/shm/{name}", 4096)
    with pytest.raises(RegionSizeError, match="truncated"):
        region.generation  # noqa: B018  # reading it is what must raise


def test_a_raw_region_has_no_generation(name: str):
    with Region.create(name, 10, layout="raw") as region:
        assert region.generation is None
        assert os.stat(f"/dev/shm/{name}").st_size == 10


def test_linked_tells_whether_the_name_is_still_ours(region: Region, name: str):
    assert region.linked
    os.rename(f"/dev/shm/{name}", f"/dev/shm/{name}-away")
    assert not region.linked
    os.rename(f"/dev/shm/{name}-away", f"/dev/shm/{name}")
    assert region.linked
    region.unlink()
    assert not region.linked


# ---- create, attach, open ------------------------------------------------------


@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
@pytest.mark.parametrize(
    ("length", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)],
)
def test_a_bad_length_is_refused_and_nothing_is_made(name: str, make, length, error):
    with pytest.raises(error, match="length"):
        make(name, length)
    assert not os.path.exists(f"/dev/shm/{name}")


@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "uint9"}, ValueError),
        ({"dtype": 8}, TypeError),
        ({"layout": "sideways"}, ValueError),
        ({"layout": 1}, TypeError),
    ],
)
def test_a_bad_option_is_refused_and_nothing_is_made(name: str, make, options, error):
    with pytest.raises(error, match=next(iter(options))):
        make(name, 1, **options)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_open_creates_then_attaches(name: str):
    with (
        Region.open(name, 4, dtype="int32") as first,
        Region.open(name, 4, dtype="int32") as second,
    ):
        assert (first.created, second.created) == (True, False)


def test_open_attaches_to_a_raw_object_made_by_others(name: str):
    Path(f"/dev/shm/{name}").write_bytes(bytes(64))
    with Region.open(name, 64) as region:
        assert (region.layout, region.created, len(region)) == ("raw", False, 64)


def test_attach_may_take_fewer_elements_but_not_more(region: Region, name: str):
    with Region.attach(name, 3) as part:
        assert len(part) == 3
        assert part.generation == 0
    with pytest.raises(RegionSizeError, match="8 elements of uint64, not 9"):
        Region.attach(name, 9)
    with pytest.raises(RegionSizeError, match="8 elements"):
        Region.open(name, 2**62, dtype="uint64")


@pytest.mark.parametrize("make", [Region.attach, Region.open])
def test_another_dtype_is_told_with_the_right_one(region: Region, name: str, make):
    with pytest.raises(RegionFormatError, match="elements of uint64, not int8"):
        make(name, 1, dtype="int8")


def test_managed_must_be_managed_when_asked_for(name: str):
    Path(f"/dev/shm/{name}").write_bytes(bytes(8192))
    with pytest.raises(RegionFormatError, match="layout='raw'"):
        Region.attach(name, layout="managed")


def test_raw_shows_a_managed_regions_bytes_as_they_are(region: Region, name: str):
    with Region.attach(name, layout="raw") as raw:
        assert len(raw) == 8192
        assert bytes(raw.buffer[4096:4112]) == b"shm_async region"


def test_a_raw_object_must_fit_its_elements(name: str):
    Path(f"/dev/shm/{name}").write_bytes(bytes(10))
    with pytest.raises(RegionSizeError, match="no whole number of uint32"):
        Region.attach(name, dtype="uint32")
    with Region.attach(name, 2, dtype="uint32") as region:
        assert region.nbytes == 8
    with pytest.raises(RegionSizeError, match="10 bytes, less than 3 elements"):
        Region.attach(name, 3, dtype="uint32")


def test_a_failed_attach_leaves_the_object_alone(region: Region, name: str):
    before = Path(f"/dev/shm/{name}").read_bytes()
    for options in ({"dtype": "int8"}, {"length": 100}, {"layout": "x"}):
        with pytest.raises(ValueError, match="."):
            Region.attach(name, **options)
    assert Path(f"/dev/shm/{name}").read_bytes() == before
    assert region.linked


# ---- readonly --------------------------------------------------------------------


def test_readonly_reads_and_never_writes(region: Region, name: str):
    with region.write_lock() as view:
        view[0] = 5
    with Region.attach(name, readonly=True) as other:
        assert other.readonly
        with pytest.raises(PermissionError, match="readonly=True") as caught:
            other.write_lock()
        assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)
        with other.read_lock() as view:
            assert view[0] == 5
            with pytest.raises(TypeError):
                view[0] = 6
        with pytest.raises(TypeError):
            other.buffer[0] = 6
        assert other.generation == 2
        with region.write_lock(), pytest.raises(WouldBlockError):
            other.read_lock().acquire_nowait()


# ---- lock_memory -------------------------------------------------------------------


def test_lock_memory_locks_and_close_unlocks(name: str):
    before = locked_bytes()
    with Region.create(name, 2**16, lock_memory=True):
        assert locked_bytes() >= before + 2**16
    assert locked_bytes() == before
    with Region.attach(name, lock_memory=True):
        assert locked_bytes() >= before + 2**16
    assert locked_bytes() == before


REFUSED = """
import os, resource, sys
import shm_async
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, 8192))
if os.geteuid() == 0:
    os.setgid(12345), os.setuid(12345)  # root may lock all it likes
name = sys.argv[1]
descriptors = os.listdir("/proc/self/fd")
try:
    shm_async.Region.create(name, 2**20, lock_memory=True)
except OSError as error:
    print(error.errno, error)
assert not os.path.exists("/dev/shm/" + name)
shm_async.Region.create(name, 2**20).close()
try:
    shm_async.Region.attach(name, lock_memory=True)
except OSError as error:
    print(error.errno, error)
assert os.listdir("/proc/self/fd") == descriptors
"""


def test_a_refused_lock_names_the_limit_and_leaves_nothing_half_open(run_python):
    done = run_python(REFUSED)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "RLIMIT_MEMLOCK allows 8192 bytes" in line
        assert line.startswith(str(errno.ENOMEM))


# ---- close ---------------------------------------------------------------------------


def test_close_is_idempotent_and_ends_all_use(region: Region):
    region.close()
    region.close()
    assert region.closed
    for use in (
        region.read_lock,
        region.write_lock,
        region.__enter__,
        lambda: region.buffer,
        lambda: region.generation,
        lambda: region.linked,
    ):
        with pytest.raises(RegionClosedError, match="closed: open it again"):
            use()
    assert (len(region), region.nbytes, region.dtype) == (8, 64, "uint64")


async def test_a_hold_made_before_close_is_refused_after_it(region: Region):
    reader, writer = region.read_lock(), region.write_lock(fast_acquire=False)
    region.close()
    for hold in (reader, writer):
        with pytest.raises(RegionClosedError):
            await hold.acquire()
        with pytest.raises(RegionClosedError):
            hold.acquire_blocking()
        with pytest.raises(RegionClosedError):
            hold.acquire_nowait()


async def test_async_with_closes(name: str):
    async with Region.create(name, 1) as region:
        assert not region.closed
    assert region.closed


def test_a_region_that_was_never_closed_warns_and_is_closed(name: str):
    region = Region.create(name, 1)
    with pytest.warns(ResourceWarning, match="never closed"):
        del region
        gc.collect()


def test_the_mapping_goes_with_the_last_view(name: str):
    def mapped() -> bool:
        return inode in {row.split()[4] for row in maps.read_text().splitlines()}

    region = Region.create(name, 4096)
    inode, maps = str(os.stat(f"/dev/shm/{name}").st_ino), Path("/proc/self/maps")
    view = region.buffer[10:20]
    region.close()
    assert mapped()
    view[0] = 1
    del view
    assert not mapped()


STALE = """
import ctypes, sys
import numpy as np
from shm_async import Region

class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

region = Region.create(sys.argv[1], 1024, dtype="uint64")
kept = []
with region.write_lock() as view:
    kept += [view[1:3], view.cast("B"), np.frombuffer(view, "u8"), np.ndarray(1024, "u8", view)]
    kept += [np.asarray(view)[5:9], Pair.from_buffer(view), memoryview(view)]
with region.read_lock() as view:
    kept += [np.asarray(view), view[2:]]
kept += [region.buffer]
del view
region.close()
region.unlink()
del region
for each in kept:
    if isinstance(each, Pair):
        each.a += 1
    elif isinstance(each, np.ndarray):
        each.sum()
        if each.flags.writeable:
            each[0] = 3
    else:
        bytes(each)
print("alive", len(kept))
"""


def test_views_that_outlive_everything_are_stale_but_never_a_crash(run_python):
    done = run_python(STALE)
    assert (done.stdout, done.stderr, done.returncode) == ("alive 10\n", "", 0)


def test_a_view_ends_with_its_block(region: Region):
    with region.write_lock() as view:
        view[0] = 1
    with pytest.raises(ValueError, match="released"):
        view[0]
    with region.read_lock() as view:
        array = np.asarray(view)  # keeps the view from being released
    assert array[0] == 1


def test_releasing_the_buffer_property_harms_nobody(region: Region):
    region.buffer.release()
    region.buffer[0] = 1
    with region.read_lock() as view:
        assert view[0] == 1


def test_regions_are_not_copied_by_accident(region: Region):
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"cannot be copied: attach to it by name"):
            duplicate(region)


def test_holds_and_transactions_are_neither_copied_nor_pickled(region: Region):
    for each in (region.read_lock(), region.write_lock(), region.transaction()):
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                duplicate(each)


# ---- the package -----------------------------------------------------------------------


def test_the_public_names_are_these():
    assert set(shm_async.__all__) == {
        "Hold", "Holder", "LockTimeoutError", "OwnerDiedError", "Region", "RegionClosedError",
        "RegionExistsError", "RegionFormatError", "RegionNotFoundError", "RegionReplacedError",
        "RegionSizeError", "ShmError", "Statistics", "WouldBlockError", "prune",
    }  # fmt: skip
    assert all(hasattr(shm_async, each) for each in shm_async.__all__)


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


def test_closing_with_discard_gives_the_memory_back_at_once_and_blanks_the_views(region: Region):
    region.buffer[0] = 7
    attached = Region.attach(region.name)
    views = [attached.buffer, attached.buffer[:2], np.asarray(attached.buffer)]
    maps = Path("/proc/self/maps")
    assert f"/dev/shm/{region.name}\n" in maps.read_text()
    attached.close(discard=True)
    assert f"/dev/shm/{region.name}\n" not in maps.read_text()
    assert [view[0] for view in views] == [0, 0, 0]
    views[0][0] = 9  # goes nowhere
    assert region.buffer[0] == 7
