"""Elements on the command line: indices, values as text and back, types."""

import math
from collections.abc import Sequence
from typing import Any

from .._memory.elements import CODES, SIZES, check_dtype, plain, recast, typed_view

__all__ = ["as_json", "as_text", "flat_index", "index_range", "pack", "parse_shape", "unpack"]

Value = int | float | bool

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def unpack(data: bytes, dtype: str) -> list[Value]:
    """Return the elements in these bytes."""
    dtype = check_dtype(dtype)
    whole = len(data) // SIZES[dtype] * SIZES[dtype]
    return list(recast(memoryview(data)[:whole], CODES[dtype]))


def pack(texts: Sequence[str], dtype: str) -> bytes:
    """Return the bytes of elements that a user wrote.

    Raises:
        ValueError: one of them is no such element; the message says which.
    """
    data = bytearray(len(texts) * SIZES[dtype])
    with memoryview(data) as memory:
        view = typed_view(memory, dtype, (len(texts),))
        for i, text in enumerate(texts):
            _store(view, i, text, dtype)
        plain(view).release()
    return bytes(data)


def _store(view: Any, i: int, text: str, dtype: str) -> None:
    try:
        view[i] = _value(text, dtype)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{text!r} is no element of {dtype}") from None


def _value(text: str, dtype: str) -> Value:
    if dtype == "bool":
        return TRUTH[text.lower()] if text.lower() in TRUTH else bool(int(text, 0))
    if dtype.startswith("float"):
        return float(text)
    try:
        return int(text, 0)
    except ValueError:
        if dtype != "uint8_clamped":
            raise
        return float(text)


def as_text(value: Value) -> str:
    """Return an element as a person reads it, and `set` takes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def as_json(value: Value) -> Value | str:
    """Return an element as JSON has it, which knows neither NaN nor infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# ---- indices -----------------------------------------------------------------------------


def flat_index(text: str, shape: Sequence[int]) -> int:
    """Return the number of an element, for an index (from the end if negative), or one a dimension.

    Raises:
        ValueError: there is no such element.
    """
    length = math.prod(shape)
    parts = text.split(",")
    try:
        numbers = [int(part, 0) for part in parts]
    except ValueError:
        raise ValueError(f"an index is a number, or one for each dimension, not {text!r}") from None
    if len(numbers) == 1:
        return _within(numbers[0], length, text)
    if len(numbers) != len(shape):
        raise ValueError(f"index {text} has {len(numbers)} dimensions, the region {len(shape)}")
    flat = 0
    for number, dim in zip(numbers, shape, strict=True):
        flat = flat * dim + _within(number, dim, text)
    return flat


def _within(number: int, length: int, text: str) -> int:
    if not -length <= number < length:
        raise ValueError(f"index {text} is out of range: there are {length} elements")
    return number % length


def index_range(text: str | None, shape: Sequence[int]) -> range:
    """Return the elements of an index or a slice (A:B); None: all.

    Raises:
        ValueError: there is no such element.
    """
    length = math.prod(shape)
    if text is None:
        return range(length)
    if ":" in text:
        first, _, last = text.partition(":")
        try:
            ends = [int(part, 0) if part else None for part in (first, last)]
        except ValueError:
            raise ValueError(f"a range of elements is FIRST:END, not {text!r}") from None
        return range(*slice(*ends).indices(length))
    start = flat_index(text, shape)
    return range(start, start + 1)


def parse_shape(text: str) -> tuple[int, ...]:
    """Return a shape such as 2x3 or 2,3.

    Raises:
        ValueError: it is none.
    """
    try:
        return tuple(int(part, 0) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise ValueError(f"a shape is numbers such as 2x3, not {text!r}") from None
