"""The event loops that the scenarios run on."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

LOOPS = ("asyncio", "uvloop", "trio")


def run(loop: str, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Return ``await function(*arguments)``, on a fresh loop of that kind."""
    return anyio.run(
        function,
        *arguments,
        backend="trio" if loop == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if loop == "uvloop" else {},
    )
