import struct

import pytest

from shm_async import elements

EXPECTED = {
    "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4,
    "int32": 4, "uint64": 8, "int64": 8, "float32": 4, "float64": 8,
    "uint8_clamped": 1, "bool": 1, "float16": 2,
}  # fmt: skip
USABLE = [dtype for dtype in EXPECTED if dtype != "float16" or elements.HAS_FLOAT16]


def test_sizes_are_what_the_names_say():
    assert EXPECTED == elements.SIZES


@pytest.mark.parametrize("dtype", USABLE)
def test_typed_view_has_the_names_elements(dtype: str):
    memory = memoryview(bytearray(16))
    view = elements.typed_view(memory, dtype, (16 // EXPECTED[dtype],))
    assert (view.itemsize, len(view)) == (EXPECTED[dtype], 16 // EXPECTED[dtype])
    view[1] = 1
    assert struct.unpack_from(elements.CODES[dtype], memory, EXPECTED[dtype]) == (1,)


@pytest.mark.parametrize(
    ("dtype", "too_large"),
    [
        (f"{sign}int{bits}", 2 ** (bits - (not sign)))
        for sign in ("u", "")
        for bits in (8, 16, 32, 64)
    ],
)
def test_a_value_that_does_not_fit_is_refused(dtype: str, too_large: int):
    view = elements.typed_view(memoryview(bytearray(8)), dtype, (64 // int(dtype.strip("uint")),))
    view[0] = too_large - 1
    with pytest.raises(ValueError):  # noqa: PT011  # memoryview's own words
        view[0] = too_large
    assert view[0] == too_large - 1


@pytest.mark.parametrize("length", [0, -1, -(2**70)])
def test_lengths_below_one_are_refused(length: int):
    with pytest.raises(ValueError, match="at least 1"):
        elements.check_length(length)


@pytest.mark.parametrize("length", [1.0, "1", None, True, b"1", [1]])
def test_lengths_that_are_no_integers_are_refused(length: object):
    with pytest.raises(TypeError, match="length must be an int"):
        elements.check_length(length)


def test_anything_with_an_index_is_a_length():
    import numpy

    assert elements.check_length(numpy.int64(3)) == 3


@pytest.mark.parametrize(
    "dtype", ["", "uint9", "UINT8", "Z", "float128", "int", "float32array", "<Z"]
)
def test_unknown_dtypes_are_refused_and_the_known_ones_named(dtype: str):
    with pytest.raises(ValueError, match="unknown dtype.*uint8"):
        elements.check_dtype(dtype)


@pytest.mark.parametrize("dtype", [None, 8, b"uint8", float, int])
def test_a_dtype_must_be_a_str(dtype: object):
    with pytest.raises(TypeError, match="dtype must be a (str|name)"):
        elements.check_dtype(dtype)
