"""What has nothing to wait for."""

from collections.abc import Awaitable, Generator
from types import coroutine

__all__ = ["DONE"]


@coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


def _done() -> Awaitable[None]:
    """What can be awaited any number of times, and does nothing: `__aexit__` returns it.

    A generator that has ended: the interpreter asks it without a call, an allocation or a
    lookup, which an `async with` of a free lock notices.
    """
    ended = _nothing()
    next(ended, None)
    return ended


DONE = _done()
