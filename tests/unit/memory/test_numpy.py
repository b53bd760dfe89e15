"""region.numpy() and hold.numpy(): the memory itself, as an array."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dtypes import EVERY_LAYOUT, EVERY_TYPE, SHAPES, VALUES
from looking import is_mapped

from shm_async import Region, RegionClosedError


def numpys_name(dtype: str) -> str:
    return "uint8" if dtype == "uint8_clamped" else dtype


@EVERY_TYPE
@EVERY_LAYOUT
def test_an_array_is_of_the_regions_type_and_shape_and_no_copy(name: str, dtype: str, layout):
    with Region.create(name, 3, dtype=dtype, layout=layout) as region:
        array = region.numpy()
        assert (array.dtype, array.shape) == (np.dtype(numpys_name(dtype)), (3,))
        assert array.flags.writeable
        assert not array.flags.owndata
        for index, value in enumerate(VALUES[dtype]):
            array[index] = value
        with region.read_lock() as view:
            assert view.tolist() == VALUES[dtype]
        region.buffer[0] = VALUES[dtype][1]
        assert array[0] == VALUES[dtype][1]


@SHAPES
def test_an_array_has_every_dimension(name: str, shape: tuple[int, ...]):
    with Region.create(name, shape=shape, dtype="int16") as region:
        array = region.numpy()
        array[...] = np.arange(array.size).reshape(shape)
        assert array.shape == shape
        with Region.attach(name) as other:
            assert np.array_equal(other.numpy(), array)
            assert other.snapshot() == array.tobytes()


@EVERY_TYPE
async def test_a_holds_array_may_write_for_a_writer_and_only_read_for_a_reader(
    name: str, dtype: str
):
    with Region.create(name, 3, dtype=dtype) as region:
        write, read = region.write_lock(), region.read_lock()
        async with write:
            write.numpy()[:] = VALUES[dtype]
        async with read:
            array = read.numpy()
            assert array.tolist() == VALUES[dtype]
            assert (array.dtype, array.shape) == (np.dtype(numpys_name(dtype)), (3,))
            assert np.shares_memory(array, region.numpy())
            with pytest.raises(ValueError, match="read-only"):
                array[0] = VALUES[dtype][1]
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        with read, pytest.raises(ValueError, match="read-only"):
            read.numpy()[0] = VALUES[dtype][1]
        with write:
            write.numpy()[0] = VALUES[dtype][2]
        assert region.buffer[0] == VALUES[dtype][2]


def test_a_conversion_changes_what_the_array_may_do(region: Region):
    reader, writer = region.read_lock(), region.write_lock()
    with reader:
        assert not reader.numpy().flags.writeable
        reader.upgrade_blocking()
        reader.numpy()[0] = 3
        reader.downgrade()
        assert not reader.numpy().flags.writeable
    with writer:
        writer.numpy()[0] += 1
        writer.downgrade()
        assert not writer.numpy().flags.writeable
    assert region.buffer[0] == 4


@EVERY_TYPE
def test_a_readonly_regions_array_only_reads(name: str, dtype: str):
    with Region.create(name, 2, dtype=dtype), Region.attach(name, readonly=True) as region:
        with pytest.raises(ValueError, match="read-only"):
            region.numpy()[0] = 1


def test_an_array_keeps_the_memory_mapped_after_close(name: str):
    region = Region.create(name, 4, dtype="float64")
    identity = region._attachment.segment.identity
    hold = region.write_lock()
    with hold:
        kept: list[Any] = [hold.numpy()[1:3], region.numpy().reshape(2, 2).T]
    region.close()
    region.unlink()
    del hold  # which would hand out more views
    kept[0][:] = 2.5
    assert kept[1].tolist() == [[0.0, 2.5], [2.5, 0.0]]
    kept.pop()
    assert is_mapped(identity)
    kept.pop()
    assert not is_mapped(identity)


def test_a_hold_that_is_not_held_has_no_array(region: Region):
    hold = region.write_lock()
    with pytest.raises(RuntimeError, match="is not held"):
        hold.numpy()
    with hold:
        pass
    with pytest.raises(RuntimeError, match="is not held"):
        hold.numpy()


def test_a_closed_region_has_no_array(region: Region):
    region.close()
    with pytest.raises(RegionClosedError, match="is closed"):
        region.numpy()


def test_without_numpy_the_error_says_what_to_install(run_python):
    done = run_python("""
import sys
sys.modules["numpy"] = None
from shm_async import Region
with Region.create(sys.argv[1], 4, dtype="uint8_clamped") as region:
    hold = region.write_lock()
    with hold as view:
        view[0] = 300
        for take in (region.numpy, hold.numpy):
            try:
                take()
            except ImportError as error:
                print(error)
    region.unlink()
""")
    assert done.stderr == ""
    assert done.stdout == 2 * "NumPy is not installed: pip install 'shm_async[numpy]'\n"


def test_the_extra_that_the_error_names_brings_numpy():
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert re.search(r"^numpy = \[\"numpy", project, re.MULTILINE)
    assert re.search(r"^name = \"shm[-_]async\"$", project, re.MULTILINE)
