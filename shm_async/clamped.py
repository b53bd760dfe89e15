"""ClampedView: bytes that take stores as JavaScript's Uint8ClampedArray does."""

from collections.abc import Iterable, Iterator
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias

__all__ = ["ClampedView", "clamp"]

Number: TypeAlias = SupportsIndex | SupportsFloat


def clamp(value: Number) -> int:
    """What a store of `value` leaves: 0 to 255, halves to even, NaN as 0.

    Raises:
        TypeError: no number.
    """
    if isinstance(value, int):  # however large
        return min(max(value, 0), 255)
    if not hasattr(value, "__float__") and not hasattr(value, "__index__"):
        raise TypeError(f"a clamped element must be a number, not {type(value).__name__}")
    number = float(value)
    return 0 if number != number else round(min(max(number, 0.0), 255.0))


class ClampedView:
    """A writable memoryview of unsigned bytes whose stores clamp and round.

    Items take any number; slices take a buffer or any iterable of numbers, as many as there
    are places. All other things are those of the memoryview `view`, which is also
    what other libraries want where they ask for a buffer (before Python 3.12 a class cannot
    be one itself).
    """

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def __getitem__(self, index: Any) -> Any:
        """An element, or a ClampedView of some."""
        found = self.view[index]
        return ClampedView(found) if isinstance(found, memoryview) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        """Store one number, or as many as the slice has places; all or, on an error, none."""
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

    __hash__ = None  # type: ignore[assignment]  # writable

    def __enter__(self) -> "ClampedView":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __buffer__(self, flags: int) -> memoryview:
        return self.view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What numpy.asarray returns, without a copy also before Python 3.12.

        NumPy neither clamps nor rounds: a store that does not fit is its own affair.
        """
        import numpy

        return numpy.array(self.view, dtype=dtype, copy=copy)

    def __bytes__(self) -> bytes:
        return self.view.tobytes()

    def __getattr__(self, name: str) -> Any:
        """What a memoryview has: format, nbytes, tobytes(), tolist(), release() and so on."""
        return getattr(self.view, name)

    def toreadonly(self) -> memoryview:
        """A read-only memoryview of the same bytes: nothing is left to clamp."""
        return self.view.toreadonly()

    def release(self) -> None:
        """Release the memoryview."""
        self.view.release()

    def __repr__(self) -> str:
        return f"<ClampedView of {self.view!r}>"


def _all_clamped(values: Iterable[Number] | memoryview) -> bytes | memoryview:
    try:
        given = memoryview(values)  # type: ignore[arg-type]  # if it is a buffer
    except TypeError:
        pass
    else:
        if given.format == "B":  # nothing to clamp
            return given
    return bytes([clamp(value) for value in values])
