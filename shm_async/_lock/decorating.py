"""``@region.write_lock()``: a function, or a coroutine function, that runs under the lock."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from .._mistakes import is_such

__all__ = ["decorate"]

Function = TypeVar("Function", bound=Callable[..., Any])


def decorate(function: Function, fresh: Callable[[], Any]) -> Function:
    """Return `function` so that each call has the lock, by a hold of its own.

    Args:
        function: a coroutine function waits in its event loop, any other one blocks the thread.
        fresh: makes the hold of a call.

    Raises:
        TypeError: it cannot be called, or a call only makes a generator.
    """
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"a lock decorates functions, not {function!r}: use `with` in its methods")
    if is_such(inspect.isgeneratorfunction, function) or is_such(
        inspect.isasyncgenfunction, function
    ):
        raise TypeError(
            f"{function!r} is a generator, which runs after the call that makes it, without "
            "the lock: use `with` or `async with` in its body"
        )
    if is_such(inspect.iscoroutinefunction, function):
        return cast("Function", _under_async_with(function, fresh))
    return cast("Function", _under_with(function, fresh))


def _under_async_with(function: Callable[..., Any], fresh: Callable[[], Any]) -> Callable[..., Any]:
    @wraps(function)
    async def held(*arguments: Any, **options: Any) -> Any:
        async with fresh():
            return await function(*arguments, **options)

    return held


def _under_with(function: Callable[..., Any], fresh: Callable[[], Any]) -> Callable[..., Any]:
    @wraps(function)
    def held(*arguments: Any, **options: Any) -> Any:
        with fresh():
            result = function(*arguments, **options)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"{function!r} returned a coroutine, which would run without the lock: decorate "
                "the `async def` function itself"
            )
        return result

    return held
