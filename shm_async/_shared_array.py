"""SharedArray: the result of `shm_typed_array`, an array object over a region's memory.

It must be a true buffer-protocol object (``memoryview(array)``, ``numpy.asarray(array)``,
``file.readinto(array)``), have attributes such as ``key``, and accept stores as JavaScript's
arrays do. Before Python 3.12 a class cannot offer the buffer protocol by itself. So each
array is an instance of a ctypes array type over the region's memory, which it keeps mapped.
Loads and stores use a memoryview, which raises for a value that does not fit; ctypes would cut
the value off.
"""

import ctypes
import re
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, cast

from ._memory.clamped import ClampedView
from ._memory.elements import CODES, JAVASCRIPT, NATIVE_ORDER, check_length, plain, recast
from ._memory.names import check_name
from .errors import RegionClosedError

if TYPE_CHECKING:
    from ._region import Region

__all__ = [
    "LENGTH_MAX",
    "TYPES",
    "SharedArray",
    "check_count",
    "check_key",
    "check_perm",
    "check_type_key",
    "make",
]

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

    A slice is a memoryview of the same memory, not a copy; so ``array[:]`` is all of it. A
    store that does not fit raises struct.error; a Uint8ClampedArray and its slices clamp and
    round instead. Once its segment is detached, every use raises RegionClosedError. A
    memoryview or NumPy array that was made from it is then stale, but cannot crash. The array
    takes no lock: `region` has one.

    Attributes:
        key: the System V key, or the name, by which other processes get it.
        type_key: "Buffer", "Float32Array" and so on; also the name of its class.
        region: the region below it, with its lock.
    """

    key: int | str
    type_key: str
    region: "Region"
    _code: str  # struct's
    _view: memoryview  # released when the array is detached

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        """Return an element, or a memoryview of some; a Uint8ClampedArray's view clamps."""
        try:
            return self._view[index]
        except ValueError:
            raise self._refused() from None

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        """Store one element, or for a slice as many numbers, or a buffer of this type.

        Raises:
            struct.error, OverflowError: a value does not fit the element type.
            ValueError: not as many values as the slice has elements.
        """
        if not isinstance(self._view, ClampedView):  # a ClampedView takes any number
            value = self._packed(value) if isinstance(index, slice) else self._checked(value)
        try:
            self._view[index] = value
        except ValueError:
            raise self._refused() from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __buffer__(self, flags: int, /) -> memoryview:
        """Return the view for memoryview() from Python 3.12 on; before, ctypes makes its own."""
        return plain(self[:])

    def __repr__(self) -> str:
        return f"<{self.type_key} of {len(self)} elements, key {self.key!r}>"

    if TYPE_CHECKING:  # ctypes answers

        def __len__(self) -> int: ...

    def _checked(self, value: Number) -> Number:
        """Return `value` if it fits. The ValueErrors of memoryview could not be told apart."""
        struct.pack(self._code, value)
        return value

    def _packed(self, values: Iterable[Number]) -> memoryview:
        """Return a buffer of this type as it is, and pack all others number by number."""
        try:
            given = memoryview(cast("Any", values))  # a TypeError if it is no buffer
        except TypeError:
            numbers: list[Number] = list(values)
        else:
            if given.format.lstrip(NATIVE_ORDER) == self._code and given.c_contiguous:
                return recast(given.cast("B"), self._code)
            numbers = [*given.tolist()]
        packed = struct.pack(f"{len(numbers)}{self._code}", *numbers)
        return recast(memoryview(packed), self._code)

    def _refused(self) -> Exception:
        if self.region.closed:
            return RegionClosedError(f"the array {self.key!r} is detached: get it again")
        return ValueError(
            "not as many values as the slice has elements: give the same number of them"
        )


@lru_cache(maxsize=32)
def _array_type(type_key: str, length: int) -> Any:
    """Return the ctypes class for arrays of one type and length."""
    code = CODES[TYPES[type_key]]
    members = {"_type_": C_TYPES[code], "_length_": length, "_code": code, "type_key": type_key}
    return type(type_key, (SharedArray, ctypes.Array), members)


def make(region: "Region", key: int | str, type_key: str) -> tuple[SharedArray, memoryview]:
    """Make an array over all of a region, and the view whose release ends the array."""
    memory = plain(region.buffer)
    array: SharedArray = _array_type(type_key, len(memory)).from_buffer(memory)
    view = array._view = region.buffer  # noqa: SLF001  # this function is its constructor
    array.key = key
    array.region = region
    return array, view


# ---- arguments -------------------------------------------------------------------

#: The most elements that `create` takes. The original documents 2**32 (Node 20), but passes
#: counts on as 32-bit numbers, so that 2**32 becomes 0.
LENGTH_MAX = 2**32 - 1

KEY_MAX = 2**32 - 2


def check_type_key(type_key: str) -> None:
    """Raise ValueError if `type_key` is not a type key."""
    if not isinstance(type_key, str) or type_key not in TYPES:
        raise ValueError(f"unknown type key {type_key!r}: choose one of {', '.join(TYPES)}")


def check_count(count: int) -> int:
    """Return the number of elements, if an array can have so many.

    Raises:
        TypeError, ValueError.
    """
    count = check_length(count, "count")
    if count > LENGTH_MAX:
        raise ValueError(f"count must be at most {LENGTH_MAX}, not {count}")
    return count


def check_perm(perm: int | str) -> int:
    """Return permission bits, given as an int or as octal digits.

    Raises:
        TypeError, ValueError.
    """
    if isinstance(perm, bool) or not isinstance(perm, int | str):
        raise TypeError(f"perm must be an int or a str, not {type(perm).__name__}")
    if isinstance(perm, str):
        if not re.fullmatch("[0-7]{1,3}", perm):
            raise ValueError(f"perm must be up to three octal digits such as '660', not {perm!r}")
        return int(perm, 8)
    if not 0 <= perm <= 0o777:
        raise ValueError(f"perm must be between 0 and 0o777, not {perm}: write 0o660 or '660'")
    return perm


def check_key(key: int | str) -> int | str:
    """Return the normalised key: a number, or a name without its slash."""
    if isinstance(key, str):
        return check_name(key)
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"key must be an int or a str, not {type(key).__name__}")
    if not 1 <= key <= KEY_MAX:
        raise ValueError(f"key must be between 1 and {KEY_MAX}, not {key}")
    return key
