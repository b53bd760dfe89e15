"""The names of temporary regions: new names, each removed by the process that made it.

A process that is killed, or ends by os._exit, removes nothing: its names begin with PREFIX, so
`prune` finds them.
"""

import atexit
import os
import secrets
from contextlib import suppress

from .names import path_of

__all__ = ["PREFIX", "forget", "fresh_name", "remove"]

PREFIX = "shm_async.temporary."

#: Name -> the pid of the process that removes it. A forked child inherits its parent's entries.
_to_remove: dict[str, int] = {}


def fresh_name() -> str:
    """Return an unused name. It is removed when the interpreter exits, at the latest."""
    name = f"{PREFIX}{secrets.token_hex(8)}"
    _to_remove[name] = os.getpid()
    return name


def forget(name: str) -> None:
    """Do not remove the name: no region was made under it."""
    _to_remove.pop(name, None)


def remove(name: str) -> None:
    """Remove the name, if this process made it, also from an object that `resize` has put there.

    Raises:
        PermissionError: this process has no right to remove it any more.
    """
    if _to_remove.pop(name, None) == os.getpid():
        with suppress(FileNotFoundError):
            os.unlink(path_of(name))


@atexit.register
def _remove_all() -> None:
    for name in list(_to_remove):
        with suppress(
            PermissionError
        ):  # the process has dropped its rights; still remove the other names
            remove(name)
