"""The error about a dead writer, from the mark that it left in the control page."""

import os

from .._memory.control import pid_namespace, start_of
from ..errors import OwnerDiedError

__all__ = ["fate", "owner_died"]


def owner_died(name: str, pid: int, start: int, namespace: int) -> OwnerDiedError:
    """Return the exception for a lock that is granted after the death of a writer.

    Args:
        name: the region's name.
        pid: the writer's pid, as its own pid namespace counts.
        start: of the process, in clock ticks after boot; 0: not known.
        namespace: the inode of its pid namespace; 0: not known.
    """
    error = OwnerDiedError(
        f"region {name!r} may be half-written: process {pid} {fate(pid, start, namespace)}; take "
        "write_lock(recover=True), repair the data, and leave the block without an exception"
    )
    error.pid, error.start, error.namespace = pid, start, namespace
    return error


def fate(pid: int, start: int, namespace: int) -> str:
    """Return the fate of that process, as words to follow its pid."""
    ours = pid_namespace()
    if namespace and ours and namespace != ours:
        return (
            f"of another pid namespace (pid:[{namespace}], so that pid says nothing here) "
            "died while it wrote"
        )
    now = start_of(pid) if _proc_is_ours() else None
    if start and now == start:
        return "is alive, but its event loop ended while it wrote"
    if not namespace or not ours:
        return "died while it wrote (as its pid namespace counts, which is not known)"
    if start and now is not None:
        return "died while it wrote (a later process has its pid now)"
    return "died while it wrote"


def _proc_is_ours() -> bool:
    """Tell whether /proc is that of our pid namespace; another one's may be mounted there."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False
