"""The descriptors of a region, for programs that close every descriptor unknown to them."""

from collections.abc import Iterable

from .. import _native
from .._memory.segment import Segment
from .._native import LockHandle
from .lookout import Lookout

__all__ = ["filenos"]


def filenos(
    segment: Segment, handles: Iterable[LockHandle], lookouts: Iterable[Lookout]
) -> list[int]:
    """Return the open descriptors of the segment, of its locks and of its lookouts, sorted."""
    found = [segment.fd] if segment.has_descriptor() else []
    for handle in handles:
        found += [handle.fd, _native.waiter_known_fd(handle)]
    for lookout in lookouts:
        hub = lookout.hub()
        found += [lookout.handle.fd, -1 if hub is None else hub.handle.fd]
    return sorted({fd for fd in found if fd >= 0})
