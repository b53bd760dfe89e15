import os
import sys
from math import prod
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_async import OwnerDiedError, Region, RegionFormatError, ShmError, _native
from shm_async._memory import control
from shm_async._memory.elements import SIZES

SIZE = control.managed_size(40)


def page() -> bytearray:
    return bytearray(control.pack(shape=(5,), dtype="int64", sparse=False))


def test_what_was_packed_is_unpacked():
    found = control.unpack(bytes(page()), SIZE, "x")
    assert found is not None
    assert (found.nbytes, found.shape, found.dtype, found.sparse) == (40, (5,), "int64", False)
    assert (found.creator_pid, found.creator_start) == control.process_identity()


def test_offsets_are_the_documented_ones():
    offsets = {
        "magic": 0, "version": 16, "flags": 20, "nbytes": 24, "lineage": 32, "dtype": 40,
        "creator_start": 56, "creator_pid": 64, "ndim": 68, "shape": 72, "epoch": 120,
        "checksum": 124,
        "generation": 128, "writer_start": 136, "writer_pid": 144, "replaced": 148,
        "writer_since": 152, "writer_ns": 160,
        "gate": 192, "watchers": 196,
    }  # fmt: skip
    for field, offset in offsets.items():
        assert _native.ffi.offsetof("shma_control", field) == offset, field
    assert control.CONTROL_SIZE == 4096


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 4097, 2**40])
def test_the_control_page_is_the_last_page_and_hides_no_data(nbytes: int):
    size = control.managed_size(nbytes)
    assert size % 4096 == 0
    assert 0 <= size - 4096 - nbytes < 4096


def test_the_start_time_tells_processes_apart():
    pid, start = control.process_identity()
    assert pid == os.getpid()
    boot_ticks = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert 0 < start <= boot_ticks


def test_every_region_is_of_a_lineage_of_its_own():
    drawn = {control.unpack(bytes(page()), SIZE, "x").lineage for _ in range(3)}
    assert len(drawn) == 3
    heir = control.pack(
        shape=(5,), dtype="int64", sparse=False, lineage=2**64 - 1, epoch=7, generation=8
    )
    found = control.unpack(heir, SIZE, "x")
    assert (found.lineage, found.epoch) == (2**64 - 1, 7)
    assert _native.control_from_bytes(heir).generation == 8


def test_a_page_of_something_else_is_no_control_page():
    assert control.unpack(bytes(4096), SIZE, "x") is None
    assert control.unpack(os.urandom(4096), SIZE, "x") is None


@pytest.mark.parametrize("offset", range(128))
def test_every_byte_that_never_changes_is_watched(offset: int):
    damaged = page()
    damaged[offset] ^= 0x41
    with pytest.raises(RegionFormatError, match="'x'"):
        control.unpack(bytes(damaged), SIZE, "x")


def resealed(**fields: object) -> bytes:
    """A page whose checksum is right and whose fields are not."""
    right = {
        "magic": control.MAGIC, "version": 1, "nbytes": 40, "dtype": b"int64",
        "ndim": 1, "shape": (5,),
    }  # fmt: skip
    draft = bytearray(_native.control_to_bytes(**(right | fields)))
    draft[124:128] = crc32(draft[16:124]).to_bytes(4, sys.byteorder)
    return bytes(draft)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"magic": b"shm_async Region"}, "magic"),
        ({"version": 2}, "version 2"),
        ({"version": 0}, "version 0"),
        ({"dtype": b"uint9"}, "uint9"),
        ({"dtype": b"\xff" * 16}, "element type"),
        ({"shape": (0,), "nbytes": 0}, "shape"),
        ({"shape": (6,)}, "shape .* and its size disagree"),
        ({"nbytes": 2**64 - 8}, "and its size disagree"),
        ({"nbytes": 8192, "shape": (1024,)}, "another size"),
        ({"ndim": 0}, "0 dimensions"),
        ({"ndim": 7}, "7 dimensions"),
        ({"shape": (4,)}, "shape"),
        ({"ndim": 2, "shape": (5, 0)}, "shape"),
        ({"ndim": 2, "shape": (2**32, 2**32)}, "shape"),
        ({"shape": (2**61 + 5,)}, "and its size disagree"),
        ({"flags": 2}, "flags"),
    ],
)
def test_a_sealed_lie_is_told_by_field(fields: dict[str, object], says: str):
    with pytest.raises(RegionFormatError, match=says):
        control.unpack(resealed(**fields), SIZE, "x")


@given(
    edits=st.lists(st.tuples(st.integers(0, 143), st.binary(min_size=1, max_size=16)), max_size=8),
    seal=st.booleans(),
)
def test_no_page_whatever_is_in_it_does_more_than_raise(edits: list[tuple[int, bytes]], seal: bool):
    damaged = page()
    for offset, junk in edits:
        damaged[offset : offset + len(junk)] = junk
    if seal:
        damaged[124:128] = crc32(damaged[16:124]).to_bytes(4, sys.byteorder)
    try:
        found = control.unpack(bytes(damaged), SIZE, "x")
    except RegionFormatError:
        return
    assert found is None or found.nbytes == prod(found.shape) * SIZES[found.dtype] <= SIZE - 4096


def test_attaching_to_damage_tells_and_touches_nothing(name: str):
    with Region.create(name, 5, dtype="int64"):
        path = Path(f"/dev/shm/{name}")
        healthy = path.read_bytes()
        for offset in range(0, 80, 3):
            damaged = bytearray(healthy)
            damaged[4096 + offset] ^= 0xFF
            path.write_bytes(damaged)
            with pytest.raises(ShmError):
                Region.attach(name)
            assert path.read_bytes() == damaged
        path.write_bytes(healthy)
        Region.attach(name).close()


def test_fields_that_change_may_hold_anything(region: Region, name: str):
    path = Path(f"/dev/shm/{name}")
    with path.open("r+b") as file:
        file.seek(4096 + 128)
        file.write(b"\xff" * (4096 - 128))
    with Region.attach(name) as other:
        with pytest.raises(OwnerDiedError):
            other.write_lock().acquire_blocking()
        with other.write_lock(recover=True) as view:
            view[0] = 7
        with other.read_lock() as view:
            assert view[0] == 7
        assert other.generation is not None
        assert other.generation % 2 == 0
