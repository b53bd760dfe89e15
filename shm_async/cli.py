"""The command `shm-async`, also ``python -m shm_async``: see, inspect and use regions."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["main"]

Command: TypeAlias = "Callable[[Namespace], int]"

INTERRUPTED = 130
BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process.

    Returns:
        The exit status: 0 done, 1 not found or not granted, 2 usage, 3 another failure.
    """
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE


def _run(arguments: Sequence[str] | None) -> int:
    from ._cli.parser import make_parser

    options = make_parser().parse_args(arguments)
    try:
        return _function(options.function)(options)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        from ._cli import failures

        failures.say(failures.text_of(error))
        return failures.status_of(error)


def _function(place: str) -> Command:
    from importlib import import_module

    module, _, name = place.partition(":")
    command: Command = getattr(import_module(f"._cli.{module}", __package__), name)
    return command


def _forget_output() -> None:
    """Make the interpreter's last flush succeed after the reader of the output has ended."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
