"""Which signal interrupts a blocked lock: what the environment variable SHM_ASYNC_SIGNAL says.

Read once, when the package is imported; the signal itself is claimed when something has to
wait for the first time. Left to itself the package takes a real-time signal that nobody
handles. Programs that handle all of them, or sandboxes that forbid it, choose one or none.
"""

import os
import re
import signal

from ._native import ANY_SIGNAL, NO_SIGNAL, choose_signal

__all__ = ["VARIABLE", "no_signal_left", "parse"]

VARIABLE = "SHM_ASYNC_SIGNAL"

#: Signals that mean nothing to the kernel: to swallow any other would take something away.
MEANINGLESS = {signal.SIGUSR1, signal.SIGUSR2, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)}

NAMES = {
    "SIGUSR1": signal.SIGUSR1,
    "SIGUSR2": signal.SIGUSR2,
    "SIGRTMIN": signal.SIGRTMIN,
    "SIGRTMAX": signal.SIGRTMAX,
}
NAME = re.compile(r"(SIGUSR[12])|(SIGRTMIN|SIGRTMAX)([+-]\d{1,3})?", re.ASCII)


def parse(text: str) -> int:
    """The number of the signal that is meant; ANY_SIGNAL if empty, NO_SIGNAL if off.

    Raises:
        ValueError: it is none that could be used.
    """
    if text in ("", "off"):
        return NO_SIGNAL if text else ANY_SIGNAL
    if re.fullmatch(r"\d{1,3}", text, re.ASCII):
        number = int(text)
    elif match := NAME.fullmatch(text):
        plain, end, distance = match.groups()
        number = NAMES[plain or end] + int(distance or 0)
    else:
        number = 0
    if number not in MEANINGLESS:
        raise ValueError(
            f"{VARIABLE}={text!r} is no signal that can interrupt a lock: set it to the number or "
            f"the name of a real-time signal ({signal.SIGRTMIN:d} to {signal.SIGRTMAX:d}, "
            "SIGRTMIN+5, SIGRTMAX-2) or of SIGUSR1 or SIGUSR2, to off to have waits poll "
            "instead, or unset it to have one chosen"
        )
    return number


def no_signal_left() -> str:
    """Why a wait is impossible: the signal that it takes is not to be had."""
    if chosen == ANY_SIGNAL:
        reason = "every real-time signal is taken: leave one to us"
    else:
        reason = (
            f"{VARIABLE} chose signal {chosen}, which this process handles or ignores "
            "already: choose another"
        )
    return f"cannot wait for the lock: {reason}, or set {VARIABLE}=off to have waits poll"


chosen = parse(os.environ.get(VARIABLE, ""))
choose_signal(chosen)
