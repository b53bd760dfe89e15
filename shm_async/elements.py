"""Element types: their names, struct codes and sizes, and checking a length."""

import operator
import struct

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
}

#: Name of each element type -> bytes per element.
SIZES = {name: struct.calcsize(code) for name, code in CODES.items()}


def check_dtype(dtype: str) -> str:
    """Return `dtype` if it names an element type.

    Raises:
        TypeError: not a str. ValueError: an unknown name.
    """
    if not isinstance(dtype, str):
        raise TypeError(f"dtype must be a str such as 'uint8', not {type(dtype).__name__}")
    if dtype not in CODES:
        raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(CODES)}")
    return dtype


def check_length(length: int) -> int:
    """Return `length`, a number of elements, as an int of at least 1.

    Raises:
        TypeError: not an integer (a bool is none). ValueError: below 1.
    """
    if isinstance(length, bool) or not hasattr(length, "__index__"):
        raise TypeError(f"length must be an int, not {type(length).__name__}")
    length = operator.index(length)
    if length < 1:
        raise ValueError(f"length must be at least 1 element, not {length}")
    return length


def typed_view(memory: memoryview, dtype: str) -> memoryview:
    """Cast bytes to elements. A cast keeps the bytes' owner alive."""
    return memory.cast(CODES[dtype])  # type: ignore[call-overload,no-any-return]  # wants a literal
