"""Attaching to the region that the command line names, and waiting for its lock."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from .. import Region
from .._terms import IfUnlinked
from ..errors import LockTimeoutError, WouldBlockError
from .advice import who_holds
from .names import address

__all__ = ["NotGrantedError", "attached", "telling_who_holds"]


class NotGrantedError(TimeoutError):
    """Raised when the lock was not granted in time; the message names its holders."""


@contextmanager
def attached(
    options: Namespace, *, readonly: bool = False, if_unlinked: IfUnlinked = "ignore"
) -> Iterator[Region]:
    """Attach to the region as the options say, for a block."""
    where = address(options.name, key=options.key)
    with Region.attach(
        where,
        layout=options.layout,
        readonly=readonly,
        owner="any" if options.any_owner else "me",
        follow=True,
        if_unlinked=if_unlinked,
        on_owner_death="ignore" if options.ignore_death else "raise",
    ) as region:
        yield region


@contextmanager
def telling_who_holds(region: Region) -> Iterator[None]:
    """Turn a failed wait in the block into a message that names the lock's holders.

    Raises:
        NotGrantedError: the lock was not granted in time.
    """
    try:
        yield
    except (LockTimeoutError, WouldBlockError):
        raise NotGrantedError(
            f"{region.name}: the lock was not granted in time: {_holders(region)}"
        ) from None


def _holders(region: Region) -> str:
    try:
        everyone = region.holders()
    except OSError:  # no /proc/locks
        return "the kernel does not list its holders"
    return who_holds(tuple(each for each in everyone if not each.waiting))
