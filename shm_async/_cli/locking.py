"""`lock`: run a command while the lock is held, as flock(1) does."""

import os
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .failures import say
from .guard import guarded, run_in_guard

if TYPE_CHECKING:
    from .. import Region

__all__ = ["lock"]


class _KeepMarkError(Exception):
    """Raised at the end of a block to keep the mark of an earlier writer that died."""


def lock(options: Namespace) -> int:
    """Run the command in a guard: see guard.py."""
    command = _command(options)
    return guarded(lambda starter, wanted: _lock(options, command, starter, wanted))


def _command(options: Namespace) -> list[str]:
    words: list[str] = options.words
    if words[:1] == ["--"]:
        words = words[1:]
    if options.shell is None and words[:1] in (["-c"], ["--command"]):
        if len(words) != 2:
            raise ValueError("-c wants exactly one argument, a line for the shell")
        options.shell, words = words[1], []
    if options.shell is None:
        if not words:
            raise ValueError("no command to run: shm-async lock NAME COMMAND")
        return words
    if words:
        raise ValueError("-c and a COMMAND exclude each other")
    return [os.environ.get("SHELL") or "/bin/sh", "-c", options.shell]


def _lock(options: Namespace, command: list[str], starter: int, wanted: set[int]) -> int:
    """Take the lock and run the command; called by the guard."""
    from .using import NotGrantedError, attached, telling_who_holds

    options.ignore_death = options.shared  # an exclusive lock reports a writer's death below
    begin = time.monotonic()
    with attached(options, readonly=options.shared) as region:
        try:
            with telling_who_holds(region), _hold(region, options) as died:
                _tell(options, command, time.monotonic() - begin, died=died)
                status = run_in_guard(command, starter, wanted)
                if died:
                    raise _KeepMarkError
                return status
        except NotGrantedError as error:
            if options.wait:
                say(str(error))
            return int(options.conflict)
        except _KeepMarkError:
            return status


@contextmanager
def _hold(region: "Region", options: Namespace) -> Iterator[bool]:
    """Hold the lock for a block. Yield whether the last writer died, which does not prevent it."""
    timeout = 0.0 if options.nonblock else options.wait
    if options.shared:
        with region.read_lock(timeout=timeout):
            yield False
        return
    hold = region.write_lock(timeout=timeout, recover=True)
    with hold:
        yield bool(getattr(hold, "owner_died", False))


def _tell(options: Namespace, command: list[str], waited: float, *, died: bool) -> None:
    if died:
        say(f"{options.name}: the last writer died, so the data may be half-written")
    if options.verbose:
        print(f"shm-async: getting lock took {waited:.6f} seconds")
        print(f"shm-async: executing {command[0]}", flush=True)
