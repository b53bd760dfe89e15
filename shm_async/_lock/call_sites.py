"""The lines of the user's code at which tasks and threads stand, for warnings and `holders`."""

import sys
import threading
from types import FrameType
from typing import Any

from .owners import owner_of

__all__ = [
    "frame_of_the_user",
    "levels_to_the_user",
    "place_of_frame",
    "place_of_task",
    "place_of_thread",
]

#: Packages whose lines do not help: a user wants the line that called them.
PLUMBING = {"shm_async", "anyio", "asyncio", "contextlib", "threading", "trio"}


def is_ours(frame: FrameType) -> bool:
    """Tell whether it runs code of this package."""
    return (frame.f_globals.get("__package__") or "").partition(".")[0] == "shm_async"


def levels_to_the_user() -> int:
    """Return the stacklevel of the user's code for the caller's `logging` or `warnings` call."""
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and is_ours(frame):
        frame, levels = frame.f_back, levels + 1
    return levels


def is_plumbing(frame: FrameType) -> bool:
    """Tell whether it runs code of this package, or of an event loop."""
    return frame.f_globals.get("__name__", "").partition(".")[0] in PLUMBING


def frame_of_the_user(frame: FrameType) -> FrameType:
    """Return the first frame from `frame` up that is not plumbing; `frame` if there is none."""
    found: FrameType | None = frame
    while found is not None and is_plumbing(found):
        found = found.f_back
    return found or frame


def place_of_frame(frame: FrameType) -> str:
    """Return a text such as "/srv/app.py:12 in main"."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


# ---- tasks -----------------------------------------------------------------------


def place_of_task(task: Any, thread: int) -> str:
    """Return a text such as "task 'Task-1' at /srv/app.py:12 in main".

    Args:
        task: asyncio's or trio's task. For another object the text is "a callback".
        thread: the ident of the thread of its event loop.
    """
    task = owner_of(task)
    coroutine = task.get_coro() if hasattr(task, "get_coro") else getattr(task, "coro", None)
    if coroutine is None:
        return "a callback" if isinstance(task, str) else f"{_name_of(task)}, which has ended"
    if getattr(coroutine, "cr_running", False):
        frame = sys._current_frames().get(thread)
        frame = frame if frame is None else frame_of_the_user(frame)
    else:
        frame = _innermost(coroutine)
    return _name_of(task) + (
        ", which has ended" if frame is None else f" at {place_of_frame(frame)}"
    )


def _name_of(task: Any) -> str:
    name = task.get_name() if hasattr(task, "get_name") else task.name
    return f"task {name!r}"


def _innermost(awaited: Any) -> FrameType | None:
    """Return the frame of a suspended coroutine: the innermost awaited one that is not plumbing."""
    found: FrameType | None = None
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None and (found is None or not is_plumbing(frame)):
            found = frame
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")
    return found


def _first(owner: Any, *names: str) -> Any:
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), None)


# ---- threads ---------------------------------------------------------------------


def place_of_thread(native_id: int) -> str | None:
    """Return a text such as "thread 'MainThread' at /srv/app.py:12 in main"; None: no such thread.

    Args:
        native_id: the result of `threading.get_native_id` in that thread.
    """
    for thread in threading.enumerate():
        if thread.native_id == native_id and thread.ident is not None:
            frame = sys._current_frames().get(thread.ident)
            if frame is not None:
                place = place_of_frame(frame_of_the_user(frame))
                return f"thread {thread.name!r} at {place}"
    return None
