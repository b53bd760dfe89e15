"""The signal that interrupts a blocked lock: the environment variable SHM_ASYNC_SIGNAL.

The variable is read once, when `Region` is first imported. The signal itself is claimed at the
first wait. By default the package takes an unused real-time signal. A program that handles all
of them, or a sandbox that forbids it, sets the variable to another signal or to "off".
"""

import os
import re
import signal

from .._native import ANY_SIGNAL, NO_SIGNAL, choose_signal

__all__ = ["SWITCHED_OFF", "VARIABLE", "no_signal_left", "parse"]

VARIABLE = "SHM_ASYNC_SIGNAL"
SWITCHED_OFF = f"{VARIABLE}=off"

#: Signals without a meaning for the kernel: a program may need any other one.
MEANINGLESS = {signal.SIGUSR1, signal.SIGUSR2, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)}

NAMES = {
    "SIGUSR1": signal.SIGUSR1,
    "SIGUSR2": signal.SIGUSR2,
    "SIGRTMIN": signal.SIGRTMIN,
    "SIGRTMAX": signal.SIGRTMAX,
}
NAME = re.compile(r"(SIGUSR[12])|(SIGRTMIN|SIGRTMAX)([+-]\d{1,3})?", re.ASCII)


def parse(text: str) -> int:
    """Return the number of the signal in `text`; ANY_SIGNAL if empty, NO_SIGNAL if "off".

    Raises:
        ValueError: it is not a usable signal.
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
    """Return the reason why a wait is impossible: its signal is not available."""
    if chosen == ANY_SIGNAL:
        reason = "every real-time signal is taken: leave one to shm_async"
    else:
        reason = (
            f"{VARIABLE} chose signal {chosen}, which this process handles or ignores "
            "already: choose another"
        )
    return f"{reason}, or set {SWITCHED_OFF} to have waits poll"


chosen = parse(os.environ.get(VARIABLE, ""))
choose_signal(chosen)
