"""Names of element types, and shapes of regions."""

import errno
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dtypes import EXPECTED, SHAPES, USABLE
from peers import segment_of

from shm_async import Region, RegionFormatError, RegionSizeError
from shm_async._memory import control, elements, layouts

# ---- names -------------------------------------------------------------------------------------


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


# ---- float16 -----------------------------------------------------------------------------------


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


# ---- lengths and shapes ------------------------------------------------------------------------


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
