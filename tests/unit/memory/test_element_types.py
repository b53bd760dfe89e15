"""Regions of every element type: values, misfits, and where the bytes are."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dtypes import EVERY_LAYOUT, EVERY_TYPE, EXPECTED, USABLE, VALUES, packed

from shm_async import Region

# ---- regions of every type ---------------------------------------------------------------------


@EVERY_TYPE
@EVERY_LAYOUT
def test_what_is_stored_as_items_and_slices_reads_the_same_elsewhere(name: str, dtype: str, layout):
    values = VALUES[dtype]
    with (
        Region.create(name, 8, dtype=dtype, layout=layout) as region,
        Region.attach(name, dtype=dtype, layout=layout) as other,
    ):
        with region.write_lock() as view:
            for index, value in enumerate(values):
                view[index] = value
            view[3:6] = packed(dtype, values)
            view[7] = view[2]
        with other.read_lock() as view:
            assert [view[index] for index in range(3)] == values
            assert view[3:6].tolist() == values
            assert list(view) == [*values, *values, 0, values[2]]
            assert {type(each) for each in view} == {type(values[0])}
        assert list(other.buffer) == [*values, *values, 0, values[2]]
        assert region.snapshot() == bytes(packed(dtype, [*values, *values, 0, values[2]]))


@EVERY_TYPE
def test_a_slice_takes_every_second_place_and_other_ends_too(name: str, dtype: str):
    values = VALUES[dtype]
    with Region.create(name, 6, dtype=dtype) as region, region.write_lock() as view:
        view[::2] = packed(dtype, values)
        view[-1:] = packed(dtype, values[2:])
        assert view.tolist() == [values[0], 0, values[1], 0, values[2], values[2]]


@EVERY_TYPE
def test_a_slice_takes_a_buffer_of_its_type_and_as_many_elements_only(name: str, dtype: str):
    other = "int8" if dtype != "int8" else "int16"
    refused = [packed(dtype, VALUES[dtype][:2]), packed(dtype, VALUES[dtype])[:0]]
    if dtype != "uint8_clamped":  # whose slices take numbers
        refused += [packed(other, [1, 1, 1]), VALUES[dtype]]
    with Region.create(name, 3, dtype=dtype) as region, region.write_lock() as view:
        view[:] = packed(dtype, VALUES[dtype])
        for given in refused:
            with pytest.raises((ValueError, TypeError)):
                view[:] = given
        assert view.tolist() == VALUES[dtype]


INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


MISFITS = [
    *[(dtype, VALUES[dtype][0] - 1, ValueError) for dtype in INTEGERS],
    *[(dtype, VALUES[dtype][2] + 1, ValueError) for dtype in INTEGERS],
    *[(dtype, value, TypeError) for dtype in INTEGERS for value in (1.5, "1", None, b"1")],
    *[(dtype, v, TypeError) for dtype in ("float32", "float64") for v in ("1", None, 1j)],
    ("float64", 10**400, ValueError),
    ("float16", 70_000.0, ValueError),
    ("float16", "1", TypeError),
    ("uint8_clamped", "1", TypeError),
    ("uint8_clamped", None, TypeError),
]


@pytest.mark.parametrize(
    ("dtype", "value", "error"),
    [each for each in MISFITS if each[0] in USABLE],
    ids=lambda each: getattr(each, "__name__", str(each)[:22]),
)
def test_a_value_that_does_not_fit_is_refused_and_changes_nothing(
    name: str, dtype: str, value: Any, error: type[Exception]
):
    with Region.create(name, 3, dtype=dtype) as region:
        region.buffer[:] = packed(dtype, VALUES[dtype])
        before = region.snapshot()
        with region.write_lock() as view, pytest.raises(error):
            view[1] = value
        with region.transaction() as view, pytest.raises(error):
            view[1] = value
        assert region.snapshot() == before


@EVERY_TYPE
def test_a_place_that_is_not_there_is_an_index_error(name: str, dtype: str):
    with Region.create(name, 3, dtype=dtype) as region, region.write_lock() as view:
        for index in (3, -4, 2**70):
            with pytest.raises(IndexError):
                view[index] = VALUES[dtype][0]
            with pytest.raises(IndexError):
                view[index]
        assert view.tolist() == [0, 0, 0]


def test_a_float_that_is_too_large_for_float32_is_infinite_as_in_javascript(name: str):
    with Region.create(name, 2, dtype="float32") as region:
        region.buffer[0] = 1e39
        region.buffer[1] = -1e39
        assert list(region.buffer) == [float("inf"), float("-inf")]


def test_bool_stores_the_truth_of_anything_as_one_byte(name: str):
    with Region.create(name, 4, dtype="bool") as region:
        for index, value in enumerate([5, "", [0], None]):
            region.buffer[index] = value
        assert list(region.buffer) == [True, False, True, False]
        assert region.snapshot() == b"\1\0\1\0"


# ---- where the bytes are -----------------------------------------------------------------------


@EVERY_TYPE
@EVERY_LAYOUT
def test_elements_lie_in_the_machines_byte_order_from_where_the_layout_says(
    name: str, dtype: str, layout
):
    offset = 8 if layout == "sized" else 0
    with Region.create(name, 3, dtype=dtype, layout=layout) as region:
        region.buffer[:] = packed(dtype, VALUES[dtype])
        held = Path(f"/dev/shm/{name}").read_bytes()
        assert held[offset : offset + region.nbytes] == bytes(packed(dtype, VALUES[dtype]))
    if dtype in INTEGERS:
        first = VALUES[dtype][0].to_bytes(EXPECTED[dtype], sys.byteorder, signed=dtype[0] == "i")
        assert held[offset : offset + EXPECTED[dtype]] == first


def assert_aligned(array: "np.ndarray[Any, Any]") -> None:
    assert array.ctypes.data % 8 == 0
    assert array.flags.aligned


@EVERY_LAYOUT
@pytest.mark.parametrize("readonly", [False, True])
def test_the_data_begins_at_a_multiple_of_8_bytes_in_every_layout(name: str, layout, readonly):
    with (
        Region.create(name, 3, dtype="float64", layout=layout),
        Region.attach(name, dtype="float64", layout=layout, readonly=readonly) as region,
    ):
        assert_aligned(region.numpy())
        if not readonly:
            with region.transaction() as view:
                assert_aligned(np.asarray(view))


def test_the_data_of_a_system_v_segment_does_too(sysv_key: int):
    with Region.create(sysv_key, 3, dtype="float64") as region:
        assert_aligned(region.numpy())
        region.unlink()
