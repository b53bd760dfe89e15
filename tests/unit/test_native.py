"""What Python keeps for the C side, whatever comes in between."""

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from traces import our_descriptors

from shm_async import Region, _native


class Rung(Exception):
    """What a signal handler raises."""


def ring_at(step: int, called: Callable[..., Any], work: Callable[[], object]) -> bool:
    """Work, and raise in `called` before its bytecode of that number. Whether it came so far."""
    steps = iter(range(step))

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        if frame.f_code is not called.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(steps, None) is None:
            raise Rung
        return trace

    sys.settrace(trace)
    try:
        work()
    except Rung:
        return True
    finally:
        sys.settrace(None)
    return False


def open_lock(region: Region) -> None:
    path = f"/dev/shm/{region.name}"
    found = os.stat(path)
    _native.lock_open(
        path,
        writable=True,
        identity=(found.st_dev, found.st_ino),
        size=found.st_size,
        address=_native.ffi.NULL,
        control=None,
        owner=(os.getpid(), 0, 0),
        home=path,
        name=region.name,
    )


def open_watch() -> None:
    assert _native.watch_open()[0] == 0


@pytest.mark.parametrize("opens", [_native.lock_open, _native.watch_open])
def test_an_exception_at_any_step_of_an_opening_leaves_nothing(region: Region, opens):
    """The C side lists what is open: what Python dropped without a word would still be there."""
    before = our_descriptors()
    steps = 0

    def work() -> None:
        if opens is _native.lock_open:
            open_lock(region)
        else:
            open_watch()

    while ring_at(steps, opens, work):
        assert our_descriptors() == before, f"step {steps}"
        steps += 1
    assert steps > 10
    assert our_descriptors() == before
