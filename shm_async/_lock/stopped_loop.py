"""A warning for ``with`` in a coroutine: a wait that blocks the thread stops its event loop."""

import logging
import sys
import warnings

from .call_sites import frame_of_the_user, levels_to_the_user, place_of_frame
from .loops import running_asyncio, trio_runs

__all__ = ["warn_if_a_loop_stops"]

logger = logging.getLogger("shm_async")

#: Places in the user's code that were warned of, each once.
_warned: set[tuple[str, int]] = set()


def warn_if_a_loop_stops(name: str) -> None:
    """Warn if the calling thread, which is about to wait for a lock, runs an event loop.

    Once for each place: a ResourceWarning, which Python shows in development mode and test
    runners show always, and a warning of the logger "shm_async".

    Raises:
        RuntimeError: the loop is asyncio's, in debug mode. ResourceWarning: if the warnings
            filter says "error".
    """
    loop = running_asyncio()
    if loop is None and not trio_runs():
        return
    frame = frame_of_the_user(sys._getframe())
    message = (
        f"region {name!r}: another one holds the lock, and waiting for it in this thread stops "
        "its event loop: use `async with` (or `await hold.acquire()`, snapshot_async(), "
        "resize_async()) instead of the blocking call"
    )
    if loop is not None and loop.get_debug():
        raise RuntimeError(f"{message}. This is an error in asyncio's debug mode")
    place = (frame.f_code.co_filename, frame.f_lineno)
    if place in _warned:
        return
    _warned.add(place)
    logger.warning("%s (at %s)", message, place_of_frame(frame), stacklevel=levels_to_the_user())
    warnings.warn(message, ResourceWarning, stacklevel=levels_to_the_user())
