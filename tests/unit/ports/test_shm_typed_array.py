"""The port of shm-typed-array on its own; test_interop_node.py compares it with the original."""

import struct

import numpy as np
import pytest
from arrays import got, made

from shm_async import RegionClosedError
from shm_async import shm_typed_array as shm

pytestmark = pytest.mark.usefixtures("nothing_stays_attached")


# ---- arrays ------------------------------------------------------------------------------------


def test_an_array_is_indexed_sliced_assigned_and_iterated(name: str):
    array = made(6, "Int16Array", name)
    array[0] = -5
    array[-1] = 7
    array[1:4] = [1, 2, 3]
    assert (array[0], array[5], len(array)) == (-5, 7, 6)
    assert list(array) == [-5, 1, 2, 3, 0, 7]
    assert array[1:4].tolist() == [1, 2, 3]
    array[::2] = (10, 20, 30)
    assert list(array) == [10, 1, 20, 3, 30, 7]
    assert 30 in array
    with pytest.raises(IndexError):
        array[6]
    with pytest.raises(IndexError):
        array[-7] = 1


def test_a_slice_is_the_same_memory(name: str):
    array = made(4, "Float32Array", name)
    array[1:3][0] = 0.5
    assert array[1] == 0.5


@pytest.mark.parametrize("type_key", shm.BufferType)
def test_it_is_a_true_buffer_of_its_element_type(name: str, type_key: str):
    array = made(4, type_key, name)
    array[2] = 7
    view = memoryview(array)
    assert (view.shape, view.readonly, view.format.lstrip("<")) == ((4,), False, array[:].format)
    assert view.tobytes() == bytes(array[:])
    assert np.asarray(array)[2] == 7
    np.asarray(array)[3] = 5
    assert array[3] == 5
    assert array[:][3] == 5  # a memoryview that every Python can index
    struct.pack_into("B", array, 0, 1)
    assert bytes(array[:])[0] == 1


def test_a_store_takes_buffers_of_its_type_and_numbers_from_others(name: str):
    array = made(3, "Float64Array", name)
    array[:] = np.array([1.5, 2.5, 3.5])
    assert list(array) == [1.5, 2.5, 3.5]
    array[:] = np.array([1, 2, 3], dtype="int16")
    assert list(array) == [1.0, 2.0, 3.0]
    with pytest.raises(struct.error):
        made(3, "Int8Array")[:] = b"a\xffb"  # numbers, not bits
    floats = made(3, "Float32Array")
    floats[:] = np.array([1, 2, 3], dtype="int32")
    assert list(floats) == [1.0, 2.0, 3.0]
    letters = made(3)
    letters[:] = b"abc"
    assert bytes(letters[:]) == b"abc"


@pytest.mark.parametrize(
    ("type_key", "value"),
    [
        ("Buffer", 256),
        ("Uint8Array", -1),
        ("Int8Array", 128),
        ("Uint16Array", 65536),
        ("Int32Array", 2**31),
        ("Uint32Array", 2.5),
        ("Float32Array", "1"),
        ("Float64Array", None),
    ],
)
def test_what_does_not_fit_is_structs_error_and_stores_nothing(name: str, type_key: str, value):
    array = made(2, type_key, name)
    with pytest.raises(struct.error):
        array[0] = value
    with pytest.raises(struct.error):
        array[:] = [1, value]
    assert list(array) == [0, 0]


def test_another_number_of_values_is_an_error_that_says_so(name: str):
    array = made(4, "Buffer", name)
    with pytest.raises(ValueError, match="not as many values as the slice has"):
        array[:2] = [1, 2, 3]
    assert list(array) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("value", "stored"),
    [(-0.5, 0), (0.5, 0), (1.5, 2), (254.5, 254), (1000, 255), (float("inf"), 255), (-9, 0)],
)
def test_a_clamped_array_clamps_and_rounds_half_to_even(name: str, value: float, stored: int):
    array = made(2, "Uint8ClampedArray", name)
    array[0] = value
    array[1:] = [value]
    assert list(array) == [stored, stored]


def test_a_slice_of_a_clamped_array_clamps_too(name: str):
    array = made(4, "Uint8ClampedArray", name)
    part = array[1:3]
    part[0] = 300
    part[1:] = [0.5]
    array[3:] = np.array([-7.5])
    assert list(array) == [0, 255, 0, 0]
    with pytest.raises(TypeError, match="must be a number, not str"):
        array[0] = "1"
    with pytest.raises(ValueError, match="not as many values as the slice has"):
        array[:2] = [1, 2, 3]
    with array.region.write_lock() as view:
        view[0] = 2.5
    assert list(array) == [2, 255, 0, 0]


@pytest.mark.parametrize("type_key", shm.BufferType)
def test_a_place_that_is_not_there_is_an_index_error(name: str, type_key: str):
    array = made(3, type_key, name)
    for index in (3, -4, 2**70):
        with pytest.raises(IndexError):
            array[index]
        with pytest.raises(IndexError):
            array[index] = 1
    assert list(array) == [0, 0, 0]
    assert list(array[5:]) == []


def test_a_detached_array_says_so_and_its_views_are_stale_but_no_crash(name: str):
    array = made(4, "Uint32Array", name)
    array[0] = 7
    views = [memoryview(array).cast("B"), array[:], np.asarray(array)]
    shm.detach(name)
    for use in (lambda: array[0], lambda: array[:], lambda: list(array)):
        with pytest.raises(RegionClosedError, match="is detached: get it again"):
            use()
    with pytest.raises(RegionClosedError, match="is detached: get it again"):
        array[0] = 1
    for view in views:
        bytes(view)
        view[0] = 1
    assert got(name, "Uint32Array")[0] == 7  # those stores went nowhere


def test_an_array_says_what_it_is(name: str):
    array = made(4, "Uint32Array", f"/{name}")
    assert repr(array) == f"<Uint32Array of 4 elements, key '/{name}'>"
    assert type(array).__name__ == array.type_key == "Uint32Array"
