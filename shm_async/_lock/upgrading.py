"""The coroutine that `Hold.upgrade` returns. It notices if its caller forgets ``await``."""

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn

__all__ = ["Upgrade"]


class Upgrade(Coroutine[Any, Any, bool]):
    """A coroutine that must not be mistaken for its result, which is a bool."""

    __slots__ = ("_coroutine", "_forgotten")

    # Invariant: _forgotten is None once it was started, closed or used as a bool.

    def __init__(
        self, coroutine: Coroutine[Any, Any, bool], forgotten: Callable[[], object]
    ) -> None:
        self._coroutine = coroutine
        self._forgotten: Callable[[], object] | None = forgotten  # called if it never starts

    def __await__(self) -> Generator[Any, Any, bool]:
        self._forgotten = None
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """Start it, or resume it."""
        self._forgotten = None
        return self._coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        """Raise an exception in it."""
        self._forgotten = None
        error = kind if value is None else value
        return self._coroutine.throw(
            error if traceback is None else error.with_traceback(traceback)
        )

    def close(self) -> None:
        """End it."""
        self._forgotten = None
        self._coroutine.close()

    def __bool__(self) -> NoReturn:
        self.close()
        raise TypeError(
            "upgrade() was not awaited, so the hold still reads: write `if await hold.upgrade():`"
        )

    def __del__(self) -> None:
        if self._forgotten is not None:
            self._forgotten()
