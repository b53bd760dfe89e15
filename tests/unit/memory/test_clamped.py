"""Clamped elements: the view on its own, and as regions hand it out."""

import struct
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from shm_async import Region
from shm_async._memory.clamped import ClampedView, clamp

INFINITY, NAN = float("inf"), float("nan")


class Indexed:
    """A number by nothing but its index."""

    def __index__(self) -> int:
        return 256

    def __repr__(self) -> str:
        return "Indexed()"


#: A number, and what JavaScript's Uint8ClampedArray makes of it.
STORES: list[tuple[Any, int]] = [
    (0, 0), (255, 255), (-1, 0), (256, 255), (10**400, 255), (-(10**400), 0),
    (0.4, 0), (0.5, 0), (0.6, 1), (1.5, 2), (2.5, 2), (253.5, 254), (254.5, 254), (254.6, 255),
    (-0.5, 0), (255.5, 255), (1e300, 255), (INFINITY, 255), (-INFINITY, 0), (NAN, 0),
    (True, 1), (np.bool_(True), 1), (np.int64(300), 255), (np.float32(2.5), 2),
    (np.float64(NAN), 0),
    (Fraction(7, 2), 4), (Decimal("300.5"), 255),
    (Indexed(), 255),
]  # fmt: skip
EVERY_STORE = pytest.mark.parametrize(("value", "stored"), STORES, ids=lambda each: repr(each)[:20])


@pytest.fixture
def region(name: str) -> Iterator[Region]:
    with Region.create(name, 4, dtype="uint8_clamped") as region:
        yield region


# ---- stores --------------------------------------------------------------------


@EVERY_STORE
def test_an_item_is_clamped_and_rounds_half_to_even(region: Region, value: Any, stored: int):
    assert clamp(value) == stored
    with region.write_lock() as view:
        view[0] = 7
        view[0] = value
        view[-1] = value
        assert view.tolist() == [stored, 0, 0, stored]


@EVERY_STORE
@pytest.mark.parametrize(
    "several",
    [list, tuple, iter, lambda values: (each for each in values), np.array],
    ids=["list", "tuple", "iterator", "generator", "array"],
)
def test_a_slice_takes_any_iterable_and_clamps_it(
    region: Region, several: Callable[[list[Any]], Any], value: Any, stored: int
):
    with region.write_lock() as view:
        view[1:2] = several([value])
        view[2:] = several([value, 4])
        assert view.tolist() == [0, stored, stored, 4]
        view[::3] = several([value, 4])
        assert view.tolist() == [stored, stored, stored, 4]


@pytest.mark.parametrize(
    "given",
    [
        b"\1\2\3\xff",
        bytearray(b"\1\2\3\xff"),
        memoryview(b"\xff\3\2\1")[::-1],
        memoryview(struct.pack("4i", 1, 2, 3, 999)).cast("i"),
        np.array([1, 2, 3, 255], "uint8"),
        np.array([0.6, 2, 3.4, 1000.0]),
        ClampedView(memoryview(bytearray(b"\1\2\3\xff"))),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_slice_takes_buffers_of_every_type(region: Region, given: Any):
    with region.write_lock() as view:
        view[:] = given
        assert view.tolist() == [1, 2, 3, 255]


def test_a_slice_of_a_slice_clamps_and_is_the_same_memory(region: Region):
    with region.write_lock() as view:
        part = view[1:][1:]
        part[0] = 300
        part[1:] = [-5]
        view[2:] = view[1:3]  # where they overlap
        assert view.tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize(
    "value", ["1", None, [1], b"1", 1j, object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_number_is_refused_by_its_type_and_changes_nothing(region: Region, value: Any):
    region.buffer[:] = [1, 2, 3, 4]
    with region.write_lock() as view:
        with pytest.raises(TypeError, match=f"must be a number, not {type(value).__name__}"):
            view[0] = value
        with pytest.raises(TypeError, match=f"must be a number, not {type(value).__name__}"):
            view[:] = [9, 9, 9, value]
        assert view.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("values", [[], [1, 2, 3], [1] * 5, b"123"], ids=repr)
def test_another_number_of_values_is_refused_and_changes_nothing(region: Region, values: Any):
    with region.write_lock() as view:
        with pytest.raises(ValueError, match="different structures"):
            view[:] = values
        assert view.tolist() == [0, 0, 0, 0]


# ---- who hands it out ------------------------------------------------------------


@pytest.mark.parametrize("layout", ["managed", "raw", "sized"])
def test_it_clamps_for_whoever_attaches_with_that_type(name: str, layout):
    with (
        Region.create(name, 2, dtype="Uint8ClampedArray", layout=layout) as region,
        Region.attach(name, dtype="uint8_clamped", layout=layout) as other,
    ):
        region.buffer[0] = 300
        other.buffer[1] = 1.5
        assert list(region.buffer) == list(other.buffer) == [255, 2]
        assert region.snapshot() == b"\xff\2"


async def test_every_writable_view_of_a_region_clamps(region: Region):
    region.buffer[0] = 300
    with region.write_lock() as view:
        view[1] = 300
    async with region.write_lock() as view:
        view[2] = 300
    async with region.transaction() as view:
        assert view.tolist() == [255, 255, 255, 0]
        view[:] = [2.5, 3.5, NAN, -1]
    assert list(region.buffer) == [2, 4, 0, 0]
    with region.transaction() as view:
        view[0] = 1000
    assert region.buffer[0] == 255
    with region.write_lock(recover=True) as view:
        view[3] = 256
    hold = region.read_lock()
    with hold:
        assert hold.upgrade_blocking()
        hold.view[1] = 256
        hold.downgrade()
        with pytest.raises(TypeError, match="read-only"):
            hold.view[1] = 1
    assert region.snapshot() == b"\xff\xff\0\xff"


async def test_a_readers_view_is_read_only(region: Region, name: str):
    with Region.attach(name, readonly=True) as other:
        for source in (region, other):
            async with source.read_lock() as view:
                assert type(view) is memoryview  # a buffer in every Python
                assert view.readonly
                with pytest.raises(TypeError, match="read-only"):
                    view[0] = 1
                with pytest.raises(TypeError, match="read-only"):
                    view[:] = b"1234"
            with source.read_lock() as view, pytest.raises(TypeError, match="read-only"):
                view[0] = 1
        assert type(other.buffer) is memoryview
        with pytest.raises(TypeError, match="read-only"):
            other.buffer[0] = 1
    assert region.snapshot() == bytes(4)


def test_the_view_ends_with_its_block(region: Region):
    with region.write_lock() as view:
        part = view[1:]
    for use in (lambda: view[0], lambda: view.tolist(), lambda: bytes(view)):
        with pytest.raises(ValueError, match="released"):
            use()
    with pytest.raises(ValueError, match="released"):
        view[0] = 1
    part[0] = 9  # stale, as every slice that is kept, but no crash


def test_a_view_of_several_dimensions_clamps(name: str):
    with Region.create(name, shape=(2, 3), dtype="uint8_clamped") as region:
        with region.write_lock() as view:
            view[1, 2] = 2000
            view[0, 0] = 0.5
            assert (view.shape, view[1, 2]) == ((2, 3), 255)
        with region.transaction() as view:
            view[1, 1] = -3.5
            view[0, 1] = 9.5
        assert region.numpy().tolist() == [[0, 10, 0], [0, 0, 255]]


# ---- what a memoryview is --------------------------------------------------------


def test_it_has_what_a_memoryview_has(region: Region):
    region.buffer[:] = [1, 2, 3, 4]
    with region.write_lock() as view:
        assert (view.format, view.itemsize, view.nbytes, view.ndim) == ("B", 1, 4, 1)
        assert (view.shape, view.strides) == ((4,), (1,))
        assert (view.readonly, view.c_contiguous) == (False, True)
        assert (len(view), list(view), 3 in view) == (4, [1, 2, 3, 4], True)
        assert (bytes(view), view.tobytes(), view.hex()) == (b"\1\2\3\4", b"\1\2\3\4", "01020304")
        assert view == b"\1\2\3\4"
        assert view == view[:]
        assert view != view[1:]
        assert view.cast("H").shape == (2,)
        assert view.toreadonly().readonly
        assert repr(view).startswith("<ClampedView of <memory at ")
        with pytest.raises(TypeError, match="unhashable"):
            hash(view)
        with view[1:] as part:
            part[0] = 300
        with pytest.raises(ValueError, match="released"):
            part[0]
        assert view[1] == 255


def test_numpy_takes_it_without_a_copy_and_does_not_clamp(region: Region):
    with region.write_lock() as view:
        array = np.asarray(view)
        assert array.dtype == np.uint8
        assert np.shares_memory(array, region.numpy())
        array[:] = np.array([300, -1, 7, 0])  # a cast cuts off
        assert view.tolist() == [300 - 256, 255, 7, 0]
        assert not np.shares_memory(np.array(view), array)
        assert np.asarray(view, dtype="float32").tolist() == [44.0, 255.0, 7.0, 0.0]
        array[:] = np.clip(np.rint([300.0, -1.0, 2.5, 0.0]), 0, 255)  # the same as view[:] = ...
        assert view.tolist() == [255, 0, 2, 0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a class is no buffer before Python 3.12")
def test_it_is_a_buffer(region: Region):
    with region.write_lock() as view:
        struct.pack_into("B", view, 1, 9)
        assert bytes(memoryview(view)) == b"\0\x09\0\0"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on it is a buffer")
def test_where_it_cannot_be_a_buffer_its_memoryview_is_and_nothing_copies_in_silence(
    region: Region,
):
    with region.write_lock() as view:
        with pytest.raises(TypeError, match="bytes-like"):
            memoryview(view)  # type: ignore[arg-type]
        struct.pack_into("B", view.view, 1, 9)
        assert view.tolist() == [0, 9, 0, 0]
