"""SharedArray: what `shm_typed_array` returns, an array object over a region's memory.

It has to be a true buffer-protocol object (``memoryview(array)``, ``numpy.asarray(array)``,
``file.readinto(array)``), take attributes such as ``key``, and take stores like JavaScript's
arrays do. Before Python 3.12 a class cannot offer the buffer protocol by itself, so each
array is an instance of a ctypes array type, made over the region's memory and keeping
that mapped. Loads and stores go through a memoryview, which says what does not fit where
ctypes would cut it off.
"""

import ctypes
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from .errors import RegionClosedError

if TYPE_CHECKING:
    from .region import Region

__all__ = ["TYPES", "SharedArray", "make"]

Number: TypeAlias = int | float


def clamp(value: Number) -> int:
    """Store what Uint8ClampedArray stores: 0 to 255, halves to even, NaN as 0."""
    return 0 if value != value else round(min(max(value, 0), 255))


def as_it_is(value: Number) -> Number:
    """Store what fits, and let struct refuse the rest."""
    return value


#: The original's name of each type -> dtype, ctypes' type, and what becomes of a stored value.
TYPES: dict[str, tuple[str, type, Callable[[Number], Number]]] = {
    "Buffer": ("uint8", ctypes.c_uint8, as_it_is),
    "Int8Array": ("int8", ctypes.c_int8, as_it_is),
    "Uint8Array": ("uint8", ctypes.c_uint8, as_it_is),
    "Uint8ClampedArray": ("uint8", ctypes.c_uint8, clamp),
    "Int16Array": ("int16", ctypes.c_int16, as_it_is),
    "Uint16Array": ("uint16", ctypes.c_uint16, as_it_is),
    "Int32Array": ("int32", ctypes.c_int32, as_it_is),
    "Uint32Array": ("uint32", ctypes.c_uint32, as_it_is),
    "Float32Array": ("float32", ctypes.c_float, as_it_is),
    "Float64Array": ("float64", ctypes.c_double, as_it_is),
}


class SharedArray:
    """An array in shared memory: index it, slice it, assign to it, iterate over it.

    A slice is a memoryview of the same memory, no copy; so ``array[:]`` is all of it. A
    store that does not fit is struct's error, but Uint8ClampedArray clamps and rounds. Once
    its segment is detached every use of it is a RegionClosedError; a memoryview or NumPy
    array that was made from it is stale, never a crash. No lock is taken: `region` has one.

    Attributes:
        key: the System V key, or the name, that other processes get it by.
        type_key: "Buffer", "Float32Array" and so on; also the name of its class.
        region: the region below it, with its lock.
    """

    key: int | str
    type_key: str
    region: "Region"
    _view: memoryview  # released when the array is detached
    _code: str
    _stored: Callable[[Number], Number]

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """An element, or a memoryview of some."""
        try:
            return self._view[index]
        except ValueError:
            raise self._refused() from None

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        """Store one element, or as many as the slice has: numbers, or a buffer of this type.

        Raises:
            struct.error, OverflowError: a value does not fit the element type.
            ValueError: not as many values as the slice has elements.
        """
        if isinstance(index, slice):
            fitting: Any = self._pack(value)
        else:
            fitting = self._stored(value)
            struct.pack(self._code, fitting)
        try:
            self._view[index] = fitting
        except ValueError:
            raise self._refused() from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __buffer__(self, flags: int, /) -> memoryview:
        """What memoryview() gets from Python 3.12 on; before that, ctypes' own view."""
        view: memoryview = self[:]
        return view

    def __repr__(self) -> str:
        return f"<{self.type_key} of {len(self)} elements, key {self.key!r}>"

    def __len__(self) -> int:  # ctypes answers; here for those who read, and check types
        return super().__len__()  # type: ignore[misc,no-any-return]

    def _pack(self, values: Iterable[Number]) -> memoryview:
        try:
            given = memoryview(values)  # type: ignore[arg-type]  # if it is a buffer
        except TypeError:
            pass
        else:
            if given.format.lstrip("@<=") == self._code and given.c_contiguous:
                return given.cast("B").cast(self._code)  # type: ignore[call-overload,no-any-return]
            values = given.tolist()
        numbers = [self._stored(value) for value in values]
        packed = struct.pack(f"{len(numbers)}{self._code}", *numbers)
        return memoryview(packed).cast(self._code)  # type: ignore[call-overload,no-any-return]

    def _refused(self) -> Exception:
        if self.region.closed:
            return RegionClosedError(f"the array {self.key!r} is detached: get it again")
        return ValueError(
            "not as many values as the slice has elements: give the same number of them"
        )


@lru_cache(maxsize=32)
def _array_type(type_key: str, length: int) -> Any:
    """The class of the arrays of one type and length, as ctypes wants it."""
    members = {"_type_": TYPES[type_key][1], "_length_": length, "type_key": type_key}
    return type(type_key, (SharedArray, ctypes.Array), members)


def make(region: "Region", key: int | str, type_key: str) -> tuple[SharedArray, memoryview]:
    """Make an array over all of a region, and the view that ends it when it is released."""
    memory = region.buffer
    array: SharedArray = _array_type(type_key, len(memory)).from_buffer(memory)
    view = array._view = region.buffer
    array._code = view.format
    array._stored = TYPES[type_key][2]
    array.key = key
    array.region = region
    return array, view
