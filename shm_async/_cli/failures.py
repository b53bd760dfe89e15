"""Errors as one line on stderr: the failure, the region, and the next step."""

import errno
import sys

from ..errors import (
    OwnerDiedError,
    RegionExistsError,
    RegionNotFoundError,
    ShmError,
    WouldBlockError,
)
from .words import printable

__all__ = ["FAILED", "NOT_GRANTED", "USAGE", "say", "status_of", "text_of"]

NOT_GRANTED = 1  # also: not found
USAGE = 2
FAILED = 3

PERMITTED = (errno.EACCES, errno.EPERM)


def say(text: str) -> None:
    """Print a line on stderr."""
    print(f"shm-async: {printable(text)}", file=sys.stderr)


def status_of(error: Exception) -> int:
    """Return the exit status for an error."""
    if isinstance(error, (RegionNotFoundError, TimeoutError, WouldBlockError)):
        return NOT_GRANTED
    plain = isinstance(error, (ValueError, TypeError)) and not isinstance(error, ShmError)
    return USAGE if plain else FAILED


def text_of(error: Exception) -> str:
    """Return the failure, and the next step, in the words of the command line."""
    if isinstance(error, RegionNotFoundError):
        return f"{_name(error)}: no such region: `shm-async ls` lists all regions"
    if isinstance(error, RegionExistsError):
        return f"{_name(error)}: it exists already: `shm-async info {_name(error)}` shows it"
    if isinstance(error, OwnerDiedError):
        return (
            f"{str(error).partition(';')[0]}: look at it with `shm-async info` and `dump "
            "--ignore-death`, repair it with `set --recover`"
        )
    if isinstance(error, OSError) and error.errno:
        return _os_error(error)
    return str(error)


def _name(error: OSError) -> str:
    return str(error.filename)


def _os_error(error: OSError) -> str:
    text = error.strerror or str(error)
    if error.errno in PERMITTED:
        text = f"{_without_python(text)}: `shm-async ls` shows its owner and its mode"
    return text if error.filename is None else f"{_name(error)}: {text}"


def _without_python(text: str) -> str:
    """Return a message of the library without its advice, which is for Python programs."""
    return text.partition(": ")[0]
