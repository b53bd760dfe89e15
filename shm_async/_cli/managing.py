"""`create`, `rm`, `resize` and `prune`: making, resizing and removing regions."""

import os
import sys
from argparse import Namespace

from .._failures import not_found
from .._memory import sysv
from .._memory.names import check_kind, path_of
from ..errors import RegionNotFoundError
from .elements import parse_shape
from .facts import print_json
from .failures import say, status_of, text_of
from .names import address, title
from .using import attached, telling_who_holds

__all__ = ["create", "prune", "remove", "resize"]


def create(options: Namespace) -> int:
    """Create a region."""
    from .. import Region

    Region.create(
        address(options.name, key=options.key),
        options.length,
        dtype=options.dtype,
        shape=None if options.shape is None else parse_shape(options.shape),
        mode=options.mode,
        layout=options.layout or "managed",
        reserve=not options.sparse,
    ).close()
    return 0


def resize(options: Namespace) -> int:
    """Give a region another length."""
    shape = None if options.shape is None else parse_shape(options.shape)
    with attached(options) as region, telling_who_holds(region):
        region.resize(options.length, shape=shape, timeout=options.wait)
    return 0


def remove(options: Namespace) -> int:
    """Remove names and keys; each is tried."""
    return max(_try_to_remove(name, options) for name in options.names)


def _try_to_remove(name: str, options: Namespace) -> int:
    try:
        _remove(address(name, key=options.key))
    except (OSError, ValueError) as error:
        if options.force and isinstance(error, RegionNotFoundError):
            return 0
        say(text_of(error))
        return status_of(error)
    return 0


def _remove(where: str | int) -> None:
    """Remove the object or segment of that name or key. Attached processes keep its memory."""
    if isinstance(where, int):
        found = sysv.attach(where, readonly=True, owner="any")
        try:
            found.unlink()
        finally:
            found.close()
        return
    try:
        check_kind(where, os.lstat(path_of(where)).st_mode)
        os.unlink(path_of(where))
    except FileNotFoundError:
        raise not_found(where, "there is no such region") from None
    except PermissionError as error:
        raise PermissionError(error.errno, "no permission to remove it", where) from None


def prune(options: Namespace) -> int:
    """List, or remove, the unused regions."""
    from .._memory import prune as pruning

    found = [title(each) for each in pruning.prune(options.pattern, dry_run=not options.force)]
    if options.json:
        print_json(found)
        return 0
    for name in found:
        print(name)
    if found and not options.force and sys.stderr.isatty():
        say("nothing was removed: --force removes these")
    return 0
