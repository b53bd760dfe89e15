"""Creating, attaching and opening a region, and its facts."""

import errno
import os
import struct
from pathlib import Path

import pytest
from traces import locked_bytes

from shm_async import Region, RegionFormatError, RegionSizeError, WouldBlockError
from shm_async._memory.elements import CODES, HAS_FLOAT16, SIZES

DTYPES = [dtype for dtype in SIZES if HAS_FLOAT16 or dtype != "float16"]


def test_a_region_must_come_from_somewhere():
    with pytest.raises(TypeError, match="Region.create"):
        Region()


# ---- facts -------------------------------------------------------------------------------------


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


# ---- create, attach, open ----------------------------------------------------------------------


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


# ---- readonly ----------------------------------------------------------------------------------


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


# ---- lock_memory -------------------------------------------------------------------------------


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
from shm_async import Region  # imported while its files can be read
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, 8192))
if os.geteuid() == 0:
    os.setgid(12345), os.setuid(12345)  # root may lock all it likes
name = sys.argv[1]
descriptors = os.listdir("/proc/self/fd")
try:
    Region.create(name, 2**20, lock_memory=True)
except OSError as error:
    print(error.errno, error)
assert not os.path.exists("/dev/shm/" + name)
Region.create(name, 2**20).close()
try:
    Region.attach(name, lock_memory=True)
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
