"""Element types: their names, struct codes and sizes; shapes; typed views of bytes.

Elements have the machine's own byte order and size, as all processes that share them run on
one host. The data begins at a multiple of 8 bytes, so every element is aligned.
"""

import math
import operator
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

from .._forks import importing
from .clamped import ClampedView

if TYPE_CHECKING:
    import numpy


@runtime_checkable
class NamedType(Protocol):
    """A NumPy dtype, or another object whose `name` is the name of an element type."""

    @property
    def name(self) -> str: ...


#: A name of an element type: one of the names below, JavaScript's, struct's, or NumPy's.
DTypeLike: TypeAlias = str | NamedType | type

#: Name of each element type -> its code, as memoryview and struct spell it.
CODES = {
    "uint8": "B",
    "int8": "b",
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "uint64": "Q",
    "int64": "q",
    "float32": "f",
    "float64": "d",
    "uint8_clamped": "B",
    "bool": "?",
    "float16": "e",
}

#: Name of each element type -> bytes per element.
SIZES = {name: struct.calcsize(code) for name, code in CODES.items()}

#: JavaScript's name of each typed array, and Node's Buffer -> our name.
JAVASCRIPT = {
    "Buffer": "uint8",
    "Uint8Array": "uint8",
    "Uint8ClampedArray": "uint8_clamped",
    "Int8Array": "int8",
    "Uint16Array": "uint16",
    "Int16Array": "int16",
    "Uint32Array": "uint32",
    "Int32Array": "int32",
    "BigUint64Array": "uint64",
    "BigInt64Array": "int64",
    "Float16Array": "float16",
    "Float32Array": "float32",
    "Float64Array": "float64",
}

#: struct's codes -> our names without the bits: the byte order before `l` changes its width.
STRUCT = {"?": "bool"}
STRUCT |= dict.fromkeys("bhilqn", "int") | dict.fromkeys("BHILQN", "uint")
STRUCT |= dict.fromkeys("efd", "float")

#: The characters that may precede a struct code: the machine's own byte order.
NATIVE_ORDER = "@=" + ("<" if sys.byteorder == "little" else ">")

#: Dimensions that a control page has room for.
MAX_NDIM = 6

#: Whether memoryview knows the code for float16, as it does since Python 3.12.
HAS_FLOAT16 = sys.version_info >= (3, 12)


def check_dtype(dtype: DTypeLike) -> str:
    """Return our name of an element type.

    Args:
        dtype: one of CODES' names, JavaScript's ("Float32Array"), a struct code ("f", "<f"; the
            sizes are struct's: "l" has 8 bytes and "<l" 4), a NumPy dtype or scalar type.

    Raises:
        TypeError: `dtype` cannot name a type. ValueError: an unknown name, a foreign byte order,
            or a type that this Python cannot index.
    """
    name = _name_of(dtype)
    if name not in CODES:
        known = [each for each in CODES if each != "float16" or HAS_FLOAT16]
        raise ValueError(f"unknown dtype {name!r}: choose one of {', '.join(known)}")
    if name == "float16" and not HAS_FLOAT16:
        raise ValueError(
            "float16 elements need Python 3.12 or newer: "
            "take uint16, and view(numpy.float16) of its NumPy array"
        )
    return name


def _name_of(dtype: DTypeLike) -> str:
    if isinstance(dtype, str):
        return JAVASCRIPT.get(dtype) or _name_of_code(dtype) or dtype
    if isinstance(dtype, type):
        dtype = _dtype_of_scalar(dtype)
    if not isinstance(dtype, NamedType):
        raise TypeError(f"dtype must be a str such as 'uint8', not {type(dtype).__name__}")
    _check_order(getattr(dtype, "isnative", True), dtype)
    return dtype.name


def _name_of_code(code: str) -> str | None:
    """Return our name for the struct code `code`; None if it is not a code of one number."""
    if len(code) > 2 or code[-1:] not in STRUCT or code[:-1] not in ("", *"@=<>!"):
        return None
    try:
        bits = 8 * struct.calcsize(code)
    except struct.error:  # `n` and `N` have their native size, or none
        return None
    _check_order(code[0] in NATIVE_ORDER or code in STRUCT, code)
    kind = STRUCT[code[-1]]
    return kind if kind == "bool" else f"{kind}{bits}"


def _dtype_of_scalar(scalar: type) -> NamedType:
    """Return the dtype of a NumPy scalar type. Its name may differ: longlong is int64."""
    if scalar.__module__ != "numpy":
        raise TypeError(f"dtype must be a name such as 'uint8', not the type {scalar.__name__}")
    dtype: NamedType = sys.modules["numpy"].dtype(scalar)
    return dtype


def _check_order(right: bool, dtype: DTypeLike) -> None:
    if not right:
        raise ValueError(
            f"dtype {dtype!r} has a foreign byte order: elements are {sys.byteorder}-endian here"
        )


def check_length(length: int, what: str = "length") -> int:
    """Return `length`, a number of elements or bytes, as an int of at least 1.

    Raises:
        TypeError: `what` is not an integer (a bool is none). ValueError: it is below 1.
    """
    if isinstance(length, bool) or not hasattr(length, "__index__"):
        raise TypeError(f"{what} must be an int, not {type(length).__name__}")
    length = operator.index(length)
    if length < 1:
        raise ValueError(f"{what} must be at least 1, not {length}")
    return length


def check_shape(length: int | None, shape: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the shape that `length` or `shape` asks for; None if neither does.

    Raises:
        TypeError: not integers, or not a sequence of them. ValueError: `length` and `shape`
            contradict each other, a dimension is below 1, or there are none or too many.
    """
    if shape is None:
        return None if length is None else (check_length(length),)
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Iterable):
        raise TypeError(f"shape must be a tuple of ints, not {type(shape).__name__}")
    dims = tuple(check_length(dim, "each dimension") for dim in shape)
    if not 1 <= len(dims) <= MAX_NDIM:
        raise ValueError(f"shape must have 1 to {MAX_NDIM} dimensions, not {len(dims)}")
    if length is not None and check_length(length) != math.prod(dims):
        raise ValueError(
            f"length {length} and shape {dims} ({math.prod(dims)} elements) disagree: give one"
        )
    return dims


def required_shape(length: int | None, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape that `length` or `shape` asks for.

    Raises:
        TypeError: both are None. And as for `check_shape`.
    """
    found = check_shape(length, shape)
    if found is None:
        raise TypeError("how many elements? give length or shape")
    return found


# ---- views -------------------------------------------------------------------------


def typed_view(memory: memoryview, dtype: str, shape: tuple[int, ...]) -> memoryview:
    """Cast bytes to elements. The view keeps the bytes' owner alive.

    For a writable "uint8_clamped" it is a ClampedView, with a memoryview's attributes.
    """
    view = recast(memory, CODES[dtype], shape)
    if dtype == "uint8_clamped" and not view.readonly:
        return cast("memoryview", ClampedView(view))
    return view


def like(view: memoryview, memory: memoryview) -> memoryview:
    """Return the bytes `memory` with the element type and the shape of `view`."""
    same = recast(memory, view.format, tuple(view.shape or ()))
    return cast("memoryview", ClampedView(same)) if isinstance(view, ClampedView) else same


def plain(view: memoryview) -> memoryview:
    """Return the memoryview of a ClampedView, or the view itself if it is a memoryview."""
    whole: Any = view
    return whole.view if isinstance(whole, ClampedView) else view


def recast(memory: memoryview, code: str, shape: tuple[int, ...] = ()) -> memoryview:
    """Return the bytes `memory` as elements with that struct code; by default in one dimension."""
    to: Callable[..., memoryview] = memory.cast  # whose declaration wants a literal code
    return to(code, shape) if len(shape) > 1 else to(code)


def numpy_array(view: memoryview) -> "numpy.ndarray[Any, Any]":
    """Return a NumPy array of the view's elements and shape; it keeps their owner alive.

    Raises:
        ImportError: NumPy is not installed.
    """
    try:
        with importing:
            import numpy
    except ModuleNotFoundError:
        raise ImportError("NumPy is not installed: pip install 'shm_async[numpy]'") from None
    return numpy.asarray(plain(view))
