"""The checks of `doctor` of the kernel: version, /proc, inotify, and the interrupting signal."""

import os
import signal
from collections.abc import Iterator

from .finding import BAD, NOTE, OK, Finding, first_line

__all__ = ["findings"]

OLDEST = (4, 4)  # mlock2; O_TMPFILE and OFD locks are older
FEW_INSTANCES = 128
FEW_WATCHES = 8192


def findings() -> Iterator[Finding]:
    """Yield the findings about the kernel's features and limits."""
    yield _version()
    yield _proc()
    yield from _inotify()
    yield _signal()


def _version() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    text = f"Linux {release} has O_TMPFILE, OFD locks, mlock2"
    if numbers >= OLDEST:
        return Finding("kernel", OK, text)
    return Finding("kernel", BAD, f"Linux {release} is older than 4.4", ("update it",))


def _proc() -> Finding:
    if not os.path.exists("/proc/self/fd"):
        fix = ("mount -t proc proc /proc",)
        text = "not mounted: creating takes a slower path, and holders cannot be listed"
        return Finding("/proc", NOTE, text, fix)
    if first_line("/proc/locks") is None:
        text = "/proc/locks cannot be read: holders cannot be listed"
        return Finding("/proc", NOTE, text, ("allow reading it in the sandbox's profile",))
    if not os.path.exists("/proc/1"):
        text = "mounted with hidepid: the processes of other users are not seen"
        return Finding("/proc", NOTE, text, ("run this as root, or mount it with gid= of a group",))
    return Finding("/proc", OK, "mounted, and its list of locks can be read")


def _inotify() -> Iterator[Finding]:
    limits = (
        ("max_user_instances", FEW_INSTANCES, "event loops that wait for changes, of one user"),
        ("max_user_watches", FEW_WATCHES, "regions watched, of one user"),
    )
    for name, few, what in limits:
        limit = first_line(f"/proc/sys/fs/inotify/{name}")
        if limit is None or not limit.isdecimal():
            text = "this kernel has none: region.changes() fails"
            yield Finding("inotify", BAD, text, ("a kernel with CONFIG_INOTIFY_USER",))
            return
        fix = (
            f"sysctl -w fs.inotify.{name}={few * 8}",
            f"fs.inotify.{name}={few * 8} in /etc/sysctl.d/90-inotify.conf to keep it",
        )
        state = NOTE if int(limit) < few else OK
        yield Finding("inotify", state, f"{name} is {limit}: {what}", fix)


def _signal() -> Finding:
    try:
        from .. import _native
        from .._lock import signals
    except ValueError as error:
        return Finding("signal", BAD, str(error), ("unset SHM_ASYNC_SIGNAL",))
    if signals.chosen == _native.NO_SIGNAL:
        text = f"{signals.VARIABLE}=off: waits poll, up to 5 ms late"
        return Finding("signal", NOTE, text, (f"unset {signals.VARIABLE}",))
    if signals.chosen == _native.ANY_SIGNAL:
        number = signal.SIGRTMAX - 1
        text = f"a process takes the first free one from SIGRTMAX-1 ({number}) down"
        return Finding("signal", OK, text)
    return Finding("signal", OK, f"{signals.VARIABLE} chooses signal {signals.chosen}")
