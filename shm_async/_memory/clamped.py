"""ClampedView: unsigned bytes that clamp and round a store, as JavaScript's Uint8ClampedArray."""

from collections.abc import Iterable, Iterator
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias, cast

from .._forks import importing

__all__ = ["ClampedView", "clamp"]

Number: TypeAlias = SupportsIndex | SupportsFloat


def clamp(value: Number) -> int:
    """Return the byte that a store of `value` leaves: 0 to 255, halves to even, NaN as 0.

    Raises:
        TypeError: `value` is not a number.
    """
    if isinstance(value, int):  # however large
        return min(max(value, 0), 255)
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise TypeError(f"a clamped element must be a number, not {type(value).__name__}")
    number = float(value)
    return 0 if number != number else round(min(max(number, 0.0), 255.0))


class ClampedView:
    """A writable memoryview of unsigned bytes whose stores clamp and round.

    An item takes any number. A slice takes a buffer or an iterable of numbers, of the slice's
    length. All other attributes are those of the memoryview `view`. Pass `view` to a library
    that asks for a buffer: before Python 3.12 a class cannot be one itself.
    """

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def __getitem__(self, index: Any) -> Any:
        """Return an element, or for a slice a ClampedView."""
        found = self.view[index]
        return ClampedView(found) if isinstance(found, memoryview) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        """Store one number, or as many as the slice has elements. An error stores none of them."""
        if not isinstance(index, slice):
            self.view[index] = clamp(value)
            return
        self.view[index] = _all_clamped(value.view if isinstance(value, ClampedView) else value)

    def __len__(self) -> int:
        return len(self.view)

    def __iter__(self) -> Iterator[int]:
        return iter(self.view)

    def __eq__(self, other: object) -> bool:
        return self.view == (other.view if isinstance(other, ClampedView) else other)

    __hash__ = None  # type: ignore[assignment]  # mutable, so without a hash, like a list

    def __enter__(self) -> "ClampedView":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __buffer__(self, flags: int) -> memoryview:
        return self.view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return the array for numpy.asarray, without a copy also before Python 3.12.

        NumPy neither clamps nor rounds: a store into the array follows NumPy's own rules.
        """
        with importing:
            import numpy
        return numpy.array(self.view, dtype=dtype, copy=copy)

    def __bytes__(self) -> bytes:
        return self.view.tobytes()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the memoryview: format, nbytes, tobytes(), tolist() and so on."""
        return getattr(self.view, name)

    def toreadonly(self) -> memoryview:
        """Return a read-only memoryview of the same bytes. It needs no clamping."""
        return self.view.toreadonly()

    def release(self) -> None:
        """Release the memoryview."""
        self.view.release()

    def __repr__(self) -> str:
        return f"<ClampedView of {self.view!r}>"


def _all_clamped(values: Iterable[Number] | memoryview) -> bytes | memoryview:
    try:
        given = memoryview(cast("Any", values))  # a TypeError if it is no buffer
    except TypeError:
        pass
    else:
        if given.format == "B":  # nothing to clamp
            return given
    return bytes([clamp(value) for value in values])
