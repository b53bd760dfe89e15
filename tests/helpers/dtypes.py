"""The element types, their sizes and values of each."""

import struct
from typing import Any

import pytest

from shm_async._memory import elements

EXPECTED = {
    "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4,
    "int32": 4, "uint64": 8, "int64": 8, "float32": 4, "float64": 8,
    "uint8_clamped": 1, "bool": 1, "float16": 2,
}  # fmt: skip


USABLE = [dtype for dtype in EXPECTED if dtype != "float16" or elements.HAS_FLOAT16]


EVERY_TYPE = pytest.mark.parametrize("dtype", USABLE)


EVERY_LAYOUT = pytest.mark.parametrize("layout", ["managed", "raw", "sized"])


#: Three values of each type, its least and its largest among them.
VALUES: dict[str, list[Any]] = {
    **{f"int{bits}": [-(2 ** (bits - 1)), -1, 2 ** (bits - 1) - 1] for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": [0, 1, 2**bits - 1] for bits in (8, 16, 32, 64)},
    "float16": [-65504.0, 0.5, float("inf")],
    "float32": [-1.5, 0.1015625, float("inf")],
    "float64": [-1.7976931348623157e308, 0.1, 5e-324],
    "uint8_clamped": [0, 1, 255],
    "bool": [True, False, True],
}


def packed(dtype: str, values: list[Any]) -> memoryview:
    """The values as a buffer of that type."""
    code = elements.CODES[dtype]
    return memoryview(struct.pack(f"{len(values)}{code}", *values)).cast(code)


SHAPES = pytest.mark.parametrize("shape", [(2, 3, 4, 2, 1, 5)[:ndim] for ndim in range(1, 7)])
