"""Arrays of shm_typed_array that must be had."""

from typing import Any

from shm_async import shm_typed_array as shm
from shm_async._shared_array import SharedArray


def made(*arguments: Any) -> SharedArray:
    array = shm.create(*arguments)
    assert array is not None
    return array


def got(*arguments: Any) -> SharedArray:
    array = shm.get(*arguments)
    assert array is not None
    return array
