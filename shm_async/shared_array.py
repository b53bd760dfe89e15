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
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from .clamped import ClampedView
from .elements import CODES, JAVASCRIPT, NATIVE_ORDER, plain
from .errors import RegionClosedError

if TYPE_CHECKING:
    from .region import Region

__all__ = ["TYPES", "SharedArray", "make"]

Number: TypeAlias = int | float

#: The original's name of each type, in the order in which it numbers them -> dtype.
TYPES = {
    type_key: JAVASCRIPT[type_key]
    for type_key in (
        "Buffer",
        "Int8Array",
        "Uint8Array",
        "Uint8ClampedArray",
        "Int16Array",
        "Uint16Array",
        "Int32Array",
        "Uint32Array",
        "Float32Array",
        "Float64Array",
    )
}

#: struct's code -> ctypes' type.
C_TYPES = {
    "b": ctypes.c_int8,
    "B": ctypes.c_uint8,
    "h": ctypes.c_int16,
    "H": ctypes.c_uint16,
    "i": ctypes.c_int32,
    "I": ctypes.c_uint32,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


class SharedArray:
    """An array in shared memory: index it, slice it, assign to it, iterate over it.

    A slice is a memoryview of the same memory, no copy; so ``array[:]`` is all of it. A
    store that does not fit is struct's error, but Uint8ClampedArray clamps and rounds, and its
    slices do so, too. Once its segment is detached every use of it is a RegionClosedError; a
    memoryview or NumPy array that was made from it is stale, never a crash. No lock is taken:
    `region` has one.

    Attributes:
        key: the System V key, or the name, that other processes get it by.
        type_key: "Buffer", "Float32Array" and so on; also the name of its class.
        region: the region below it, with its lock.
    """

    key: int | str
    type_key: str
    region: "Region"
    _code: str  # struct's
    _view: memoryview  # released when the array is detached

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """An element, or a memoryview of some; a Uint8ClampedArray's clamps."""
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
        if not isinstance(self._view, ClampedView):  # which takes any number
            value = self._packed(value) if isinstance(index, slice) else self._checked(value)
        try:
            self._view[index] = value
        except ValueError:
            raise self._refused() from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __buffer__(self, flags: int, /) -> memoryview:
        """What memoryview() gets from Python 3.12 on; before that, ctypes' own view."""
        return plain(self[:])

    def __repr__(self) -> str:
        return f"<{self.type_key} of {len(self)} elements, key {self.key!r}>"

    def __len__(self) -> int:  # ctypes answers; here for those who read, and check types
        return super().__len__()  # type: ignore[misc,no-any-return]

    def _checked(self, value: Number) -> Number:
        """What fits; memoryview's own error would not tell one ValueError from another."""
        struct.pack(self._code, value)
        return value

    def _packed(self, values: Iterable[Number]) -> memoryview:
        """A buffer of this type as it is; all else number by number."""
        try:
            given = memoryview(values)  # type: ignore[arg-type]  # if it is a buffer
        except TypeError:
            numbers: list[Number] = list(values)
        else:
            if given.format.lstrip(NATIVE_ORDER) == self._code and given.c_contiguous:
                return given.cast("B").cast(self._code)  # type: ignore[call-overload,no-any-return]
            numbers = [*given.tolist()]
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
    code = CODES[TYPES[type_key]]
    members = {"_type_": C_TYPES[code], "_length_": length, "_code": code, "type_key": type_key}
    return type(type_key, (SharedArray, ctypes.Array), members)


def make(region: "Region", key: int | str, type_key: str) -> tuple[SharedArray, memoryview]:
    """Make an array over all of a region, and the view that ends it when it is released."""
    memory = plain(region.buffer)
    array: SharedArray = _array_type(type_key, len(memory)).from_buffer(memory)
    view = array._view = region.buffer
    array.key = key
    array.region = region
    return array, view
