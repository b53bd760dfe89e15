"""What only an event loop needs, imported when a loop is first met: anyio, asyncio, the adapters.

They are half of what `Region` would cost to import, and a program that only blocks needs none of
them. Write `later.lowlevel.checkpoint()`: the first use of a name imports them all and binds
every name here, so that each later use costs no more than that of an ordinary module. Keep to
that form, as ``from .later import lowlevel`` would import at once.

Threads may get here together: one imports, and all bind the same objects. A fork waits for it.
Call it only where a coroutine runs or waits, or has: never first in a ``__del__``.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from .._forks import importing

if TYPE_CHECKING:
    from anyio import lowlevel, move_on_after

    from . import adapters

__all__ = ["adapters", "lowlevel", "move_on_after"]


def __getattr__(name: str) -> object:
    """Import everything. Python calls this while the module lacks `name`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing:
        from anyio import lowlevel, move_on_after

        from . import adapters

        with suppress(RuntimeError):  # no loop runs
            lowlevel.current_token()  # anyio imports its part for a library when it first meets it

    found = {"adapters": adapters, "lowlevel": lowlevel, "move_on_after": move_on_after}
    globals().update(found)
    return found[name]
