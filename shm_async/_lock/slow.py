"""The slow path of an upgrade, written once for event loops and threads.

It works like `Hold._acquire`: try, wait, repair if possible, and try again. Its functions are
coroutines, and the caller's `Way` waits. The waits of a thread block, so its coroutines never
suspend: `run` runs them.
"""

from collections.abc import Coroutine
from typing import TypeVar

from ..errors import OwnerDiedError
from .contract import Attempt, Way

__all__ = ["run", "upgrade"]

T = TypeVar("T")


async def upgrade(attempt: Attempt, way: Way) -> bool:
    """Turn the reader at the attempt's place into the writer. After an error nothing is held.

    Returns:
        Whether no other writer can have come in between.
    """
    try:
        return await way.upgrade(attempt)
    except OwnerDiedError as error:
        if attempt.holds():  # else the lock was released, and another writer came in between
            raise
        died = error
    repairs = 0
    while True:
        repairs += await attempt.table.mend(died, repairs, way)
        try:
            await way.write(attempt)
            return False
        except OwnerDiedError as error:
            died = error


def run(coroutine: Coroutine[object, None, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError(f"{coroutine!r} has suspended")
