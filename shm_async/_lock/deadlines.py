"""The deadline of a wait: one object, from the call to the system call."""

import math
import time

__all__ = ["Deadline", "check_timeout"]

#: Seconds; a longer timeout counts as none, as it could overflow a clock.
FOR_EVER = 1e9


class Deadline:
    """The moment when `timeout` seconds, counted from now, are over."""

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout  # as the caller gave it, for the message; None: no end
        self._end = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)

    def left(self) -> int | None:
        """Return the nanoseconds until then, 0 or less if it has passed; None: no end."""
        return None if self._end is None else self._end - time.monotonic_ns()


def check_timeout(timeout: float | None) -> float | None:
    """Return `timeout`, in seconds, or None for ever.

    Raises:
        TypeError: not a number. ValueError: negative or NaN.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout must not be negative or NaN: {timeout}")
    return None if timeout > FOR_EVER else timeout
