import errno
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import segment_of

from shm_async import Region, RegionFormatError, RegionSizeError, control, elements, layouts

EXPECTED = {
    "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4,
    "int32": 4, "uint64": 8, "int64": 8, "float32": 4, "float64": 8,
    "uint8_clamped": 1, "bool": 1, "float16": 2,
}  # fmt: skip
USABLE = [dtype for dtype in EXPECTED if dtype != "float16" or elements.HAS_FLOAT16]
EVERY_TYPE = pytest.mark.parametrize("dtype", USABLE)
EVERY_LAYOUT = pytest.mark.parametrize("layout", ["managed", "raw", "sized"])

#: Three values of each type, its least and its largest among them.
VALUES: dict[str, list[Any]] = {
    **{f"int{bits}": [-(2 ** (bits - 1)), -1, 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": [0, 1, 2**bits - 1] for bits in (8, 16, 32, 64)},
    "float16": [-65504.0, 0.5, float("inf")],
    "float32": [-1.5, 0.1015625, float("inf")],
    "float64": [-1.7976931348623157e308, 0.1, 5e-324],
    "uint8_clamped": [0, 1, 255],
    "bool": [True, False, True],
}


def packed(dtype: str, values: list[Any]) -> memoryview:
    """The values as a buffer of that type."""
    code = elements.CODES[dtype]
    return memoryview(struct.pack(f"{len(values)}{code}", *values)).cast(code)


# ---- names -------------------------------------------------------------------


def test_sizes_are_what_the_names_say():
    assert EXPECTED == elements.SIZES


LONG = 8 * struct.calcsize("l")
NAMES = [
    *[(name, name) for name in EXPECTED],
    ("Buffer", "uint8"), ("Uint8Array", "uint8"), ("Uint8ClampedArray", "uint8_clamped"),
    ("Int8Array", "int8"), ("Uint16Array", "uint16"), ("Int16Array", "int16"),
    ("Uint32Array", "uint32"), ("Int32Array", "int32"), ("BigUint64Array", "uint64"),
    ("BigInt64Array", "int64"), ("Float16Array", "float16"), ("Float32Array", "float32"),
    ("Float64Array", "float64"),
    ("b", "int8"), ("B", "uint8"), ("h", "int16"), ("H", "uint16"), ("i", "int32"),
    ("I", "uint32"), ("q", "int64"), ("Q", "uint64"), ("e", "float16"), ("f", "float32"),
    ("d", "float64"), ("?", "bool"),
    ("l", f"int{LONG}"), ("L", f"uint{LONG}"), ("@l", f"int{LONG}"),
    ("=l", "int32"), ("=L", "uint32"),
    ("n", f"int{8 * struct.calcsize('n')}"), ("@N", f"uint{8 * struct.calcsize('N')}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ours"), NAMES)
def test_each_name_names_its_type(name: str, ours: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elements, "HAS_FLOAT16", True)
    assert elements.check_dtype(name) == ours


def test_javascripts_names_are_those_of_its_typed_arrays():
    assert [name for name, _ in NAMES if name.endswith("Array")] == [
        name for name in elements.JAVASCRIPT if name != "Buffer"
    ]


@pytest.mark.parametrize("code", "bBhHiIqQfd?")
@pytest.mark.parametrize("order", ["@", "=", "<" if sys.byteorder == "little" else ">"])
def test_a_struct_code_may_tell_the_machines_own_byte_order(order: str, code: str):
    assert elements.check_dtype(order + code) == elements.check_dtype(code)
    size = elements.SIZES[elements.check_dtype(order + code)]
    assert size == struct.calcsize(order + code)


@pytest.mark.parametrize("dtype", [each for each in USABLE if each != "uint8_clamped"])
def test_numpys_dtypes_and_scalar_types_name_theirs(dtype: str):
    assert elements.check_dtype(np.dtype(dtype)) == dtype
    assert elements.check_dtype(np.dtype(dtype).type) == dtype


def test_numpys_other_names_of_the_same_types_are_known():
    assert (
        elements.check_dtype(np.longlong) == elements.check_dtype(np.dtype("longlong")) == "int64"
    )
    assert elements.check_dtype(np.intc) == "int32"


FOREIGN = ">" if sys.byteorder == "little" else "<"


@pytest.mark.parametrize(
    "dtype", [FOREIGN + "f", FOREIGN + "l", np.dtype(FOREIGN + "i4")]
    + (["!d"] if sys.byteorder == "little" else []), ids=str,
)  # fmt: skip
def test_a_foreign_byte_order_is_refused(name: str, dtype: Any):
    with pytest.raises(ValueError, match=f"foreign byte order: elements are {sys.byteorder}-end"):
        Region.create(name, 1, dtype=dtype)
    assert not Path(f"/dev/shm/{name}").exists()


@pytest.mark.parametrize(
    "dtype",
    [
        "",
        "uint9",
        "UINT8",
        "Z",
        "float128",
        "int",
        "float32array",
        "<Z",
        "=n",
        "<<f",
        "s",
        "c",
        "@",
    ],
)
def test_unknown_dtypes_are_refused_and_the_known_ones_named(dtype: str):
    with pytest.raises(ValueError, match="unknown dtype.*uint8"):
        elements.check_dtype(dtype)


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.dtype("M8[s]"), np.dtype("S3"), np.dtype([("a", "i4")])], ids=str
)
def test_numpy_types_that_are_no_number_of_ours_are_refused(dtype: Any):
    with pytest.raises(ValueError, match="unknown dtype.*uint8"):
        elements.check_dtype(dtype)


@pytest.mark.parametrize("dtype", [None, 8, b"uint8", float, int])
def test_a_dtype_must_be_a_str(dtype: object):
    with pytest.raises(TypeError, match="dtype must be a (str|name)"):
        elements.check_dtype(dtype)  # type: ignore[arg-type]


def test_a_region_goes_by_every_kind_of_name(name: str):
    with Region.create(name, 2, dtype="Float32Array") as region:
        assert region.dtype == "float32"
        for same in ("f", "=f", "float32", np.float32, np.dtype("f4")):
            with Region.attach(name, dtype=same) as other:
                assert other.dtype == "float32"
        with pytest.raises(RegionFormatError, match="has elements of float32, not int32"):
            Region.attach(name, dtype="i")


# ---- float16 -----------------------------------------------------------------


def test_float16_is_refused_with_a_way_out_where_python_cannot_index_it(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(elements, "HAS_FLOAT16", False)  # as it is before Python 3.12
    monkeypatch.setattr(layouts, "HAS_FLOAT16", False)
    for spelled in ("float16", "e", "Float16Array", np.float16):
        with pytest.raises(ValueError, match=r"need Python 3\.12 or newer: take uint16"):
            Region.create(name, 4, dtype=spelled)
        assert not Path(f"/dev/shm/{name}").exists()

    page = control.pack(shape=(4,), dtype="float16", sparse=False)  # a newer Python's region
    Path(f"/dev/shm/{name}").write_bytes(struct.pack("e", 1.5) + bytes(control.PAGE - 2) + page)
    with pytest.raises(RegionFormatError, match=r"need Python 3\.12 or newer: attach with layout"):
        Region.attach(name)
    with Region.attach(name, 4, layout="raw", dtype="uint16") as region:  # the way it names
        assert region.numpy().view(np.float16).tolist() == [1.5, 0, 0, 0]


def test_this_python_has_float16_if_its_memoryview_indexes_it():
    try:
        memoryview(bytearray(2)).cast("e")[0] = 1.5
    except (ValueError, NotImplementedError):
        assert not elements.HAS_FLOAT16
    else:
        assert elements.HAS_FLOAT16


# ---- regions of every type -----------------------------------------------------


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


# ---- where the bytes are -------------------------------------------------------


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


# ---- lengths and shapes ----------------------------------------------------------


@pytest.mark.parametrize("length", [0, -1, -(2**70)])
def test_lengths_below_one_are_refused(length: int):
    with pytest.raises(ValueError, match="at least 1"):
        elements.check_length(length)


@pytest.mark.parametrize("length", [1.0, "1", None, True, b"1", [1]])
def test_lengths_that_are_no_integers_are_refused(length: object):
    with pytest.raises(TypeError, match="length must be an int"):
        elements.check_length(length)  # type: ignore[arg-type]


def test_anything_with_an_index_is_a_length():
    assert elements.check_length(np.int64(3)) == 3  # type: ignore[arg-type]


SHAPES = pytest.mark.parametrize("shape", [(2, 3, 4, 2, 1, 5)[:ndim] for ndim in range(1, 7)])


@SHAPES
def test_a_managed_region_keeps_its_shape_for_all_who_attach(name: str, shape: tuple[int, ...]):
    last = tuple(dim - 1 for dim in shape)
    with Region.create(name, shape=shape, dtype="int32") as region:
        with region.write_lock() as view:
            assert view.shape == region.shape == shape
            view[last if len(last) > 1 else last[0]] = 7
        assert len(region) == np.prod(shape)
        for options in ({}, {"shape": shape}, {"shape": list(shape), "length": len(region)}):
            with Region.attach(name, **options) as other:
                assert other.shape == other.buffer.shape == shape
                with other.read_lock() as view:
                    assert view[last if len(last) > 1 else last[0]] == 7
                assert other.numpy()[last] == 7
                assert struct.unpack(f"{len(other)}i", other.snapshot())[-1] == 7  # row by row


@SHAPES
def test_another_shape_is_refused_on_attach_and_the_right_one_named(name: str, shape):
    with Region.create(name, shape=shape) as region:
        wrong = (*shape[::-1], 1) if len(shape) < 6 else shape[::-1]
        with pytest.raises(RegionFormatError) as caught:
            Region.attach(name, shape=wrong)
        assert f"has the shape {shape}, not {wrong}" in str(caught.value)
        with Region.attach(name, len(region)) as flat:
            assert flat.shape == (len(region),)
        with pytest.raises(RegionSizeError):
            Region.attach(name, len(region) + 1)


@pytest.mark.parametrize("layout", ["raw", "sized"])
def test_a_region_without_a_control_page_gets_its_shape_on_attach(name: str, layout):
    with Region.create(name, shape=(2, 3), dtype="uint16", layout=layout) as region:
        region.buffer[1, 2] = 9
        with Region.attach(name, dtype="uint16", layout=layout) as flat:
            assert (flat.shape, flat.buffer[5]) == ((6,), 9)
        with Region.attach(name, shape=(3, 2), dtype="uint16", layout=layout) as other:
            assert (other.shape, other.buffer[2, 1]) == ((3, 2), 9)
        with pytest.raises(RegionSizeError, match="less than 8 elements"):
            Region.attach(name, shape=(4, 2), dtype="uint16", layout=layout)


def test_open_makes_the_shape_and_then_demands_it(name: str):
    with Region.open(name, shape=(2, 3)) as region, Region.open(name, shape=(2, 3)) as other:
        assert (region.created, other.created, other.shape) == (True, False, (2, 3))
        with pytest.raises(RegionFormatError, match="has the shape"):
            Region.open(name, shape=(3, 2))


def test_a_transaction_has_the_shape_too(name: str):
    with Region.create(name, shape=(2, 3), dtype="float64") as region:
        with region.transaction() as view:
            assert view.shape == (2, 3)
            view[1, 0] = 2.5
        assert region.buffer[1, 0] == 2.5


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.parametrize("shape", [(2**62,), (2**31, 2**31), (2**40, 2**40), (2**64,)], ids=str)
@pytest.mark.parametrize("kind", ["posix", "sysv"])
def test_a_shape_beyond_all_memory_is_an_oserror_that_tells_the_bytes(
    name: str, sysv_key: int, kind: str, shape: tuple[int, ...], reserve: bool
):
    key = name if kind == "posix" else sysv_key
    with pytest.raises(OSError, match=r"\d{20,} bytes") as caught:
        Region.create(key, shape=shape, dtype="uint64", reserve=reserve)
    assert caught.value.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG)
    assert not Path(f"/dev/shm/{name}").exists()
    assert segment_of(sysv_key) is None


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"shape": ()}, ValueError, "1 to 6 dimensions, not 0"),
        ({"shape": (1,) * 7}, ValueError, "1 to 6 dimensions, not 7"),
        ({"shape": (2, 0)}, ValueError, "each dimension must be at least 1, not"),
        ({"shape": (2, -3)}, ValueError, "each dimension must be at least 1, not"),
        ({"shape": (2, 1.0)}, TypeError, "each dimension must be an int, not float"),
        ({"shape": 6}, TypeError, "shape must be a tuple of ints, not int"),
        ({"shape": "23"}, TypeError, "shape must be a tuple of ints, not str"),
        ({"shape": (2, 3), "length": 5}, ValueError, "length 5 and shape .* disagree"),
        ({}, TypeError, "how many elements"),
    ],
)
@pytest.mark.parametrize("make", [Region.create, Region.open])
def test_a_shape_that_makes_no_sense_makes_nothing(name: str, make, given, error, says: str):
    with pytest.raises(error, match=says):
        make(name, **given)
    assert not Path(f"/dev/shm/{name}").exists()
