"""Resizing and following: the attachment that takes the place of another.

The mappings of other processes neither shrink nor move. These processes learn of the resize at
their next lock or snapshot. `_memory/attachment.py` has the protocol.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

from ._failures import supplanted
from ._memory import attachment, elements
from ._memory.attachment import Attachment
from ._terms import Terms
from .errors import RegionNotFoundError, RegionReplacedError

__all__ = ["check_wanted", "replacement", "successor", "with_our_name"]


def check_wanted(
    now: Attachment, length: int | None, shape: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the wanted shape of `now`.

    Raises:
        ValueError: `now` cannot be resized, or the shape makes no sense.
        TypeError: neither a length nor a shape was given.
    """
    if now.plan.layout != "managed" or now.segment.key is not None:
        kind = now.plan.layout if now.segment.key is None else "a System V segment"
        raise ValueError(
            f"region {now.segment.name!r} is {kind}, and only a managed region with a name can be "
            "resized, as no other process would notice: create another one"
        )
    return elements.required_shape(length, shape)


def replacement(now: Attachment, shape: tuple[int, ...], terms: Terms) -> Attachment | None:
    """Put a segment of that shape in the place of `now`. The caller holds its exclusive lock.

    Returns:
        The new attachment; None if `now` has that shape already.
    """
    old = now.plan.shape
    if len(shape) == 1 and len(old) > 1 and shape[0] % math.prod(old[1:]) == 0:
        shape = (shape[0] // math.prod(old[1:]), *old[1:])
    if shape[1:] != old[1:]:
        raise ValueError(
            f"region {now.segment.name!r} has the shape {old}, not {shape}: "
            "only the first dimension may change"
        )
    return None if shape == old else attachment.replace(now, shape, terms)


def successor(now: Attachment, terms: Terms, error: RegionReplacedError) -> Attachment | None:
    """Attach to the segment that another process has put in the place of `now`.

    Returns:
        The new attachment; None if `now` was not replaced.

    Raises:
        RegionReplacedError: `error`, if the terms do not ask to follow.
    """
    if not attachment.replaced(now):
        return None
    if not terms.follow:
        raise error
    return attachment.successor(now, terms)


def with_our_name(now: Attachment, terms: Terms) -> tuple[Attachment | None, bool]:
    """Attach to the new region that has the name of `now`.

    Returns:
        The new attachment, None if there is no such region (any more); and whether it continues
        the generations of `now`.

    Raises:
        RegionReplacedError: the terms do not ask to follow.
    """
    if now.segment.name_leads() != "elsewhere":
        return None, True
    if attachment.replaced(now) and terms.follow:
        return attachment.successor(now, terms), True
    if not terms.follow:
        raise supplanted(now.segment.name)
    with suppress(RegionNotFoundError):  # it is gone again: wait for the next one
        return attachment.newcomer(now, terms), False
    return None, True
