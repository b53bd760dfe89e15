"""The checks of `doctor` of the surroundings: namespaces, logind, regions that need action."""

import configparser
import glob
import os
from collections.abc import Iterator

from .._memory.processes import INITIAL_PID_NAMESPACE
from .._watch import inspection
from .finding import BAD, NOTE, OK, Finding

__all__ = ["findings"]

FIRST_USER = 1000  # logind leaves system users alone
LOGIND = (
    "/usr/lib/systemd/logind.conf",
    "/usr/lib/systemd/logind.conf.d/*.conf",
    "/etc/systemd/logind.conf",
    "/run/systemd/logind.conf.d/*.conf",
    "/etc/systemd/logind.conf.d/*.conf",
)


def findings() -> Iterator[Finding]:
    """Yield the findings about this process's surroundings, and regions in a bad state."""
    yield _mount()
    yield _namespaces()
    yield _logind()
    yield from _regions()


def _mount() -> Finding:
    kind = _file_system("/dev/shm")
    if kind == "tmpfs":
        return Finding("file system", OK, "/dev/shm is a tmpfs")
    fix = ("mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm",)
    if kind is None:
        return Finding("file system", BAD, "nothing is mounted at /dev/shm", fix)
    text = f"/dev/shm is a {kind}: locks, leases and holes may work otherwise than on a tmpfs"
    return Finding("file system", NOTE, text, fix)


def _file_system(place: str) -> str | None:
    try:
        with open("/proc/self/mountinfo") as file:
            rows = [line.split(" - ") for line in file]
    except OSError:
        return None
    kinds = [tail.split()[0] for head, tail in rows if head.split()[4] == os.path.realpath(place)]
    return kinds[-1] if kinds else None


def _namespaces() -> Finding:
    try:
        inside = os.stat("/proc/self/ns/pid").st_ino != INITIAL_PID_NAMESPACE
    except OSError:
        return Finding("namespaces", NOTE, "no /proc: holders and users cannot be listed", ())
    if not inside:
        return Finding("namespaces", OK, "this is the host: the processes of containers are seen")
    text = (
        "this is a container, or another pid namespace: a process outside can hold a lock and is "
        "not seen; locks themselves work across"
    )
    fix = (
        "Docker: --ipc=container:NAME shares /dev/shm, --pid=container:NAME lets you see holders",
        "Kubernetes: shareProcessNamespace: true",
    )
    return Finding("namespaces", NOTE, text, fix)


def _logind() -> Finding:
    if not os.path.isdir("/run/systemd/seats"):
        return Finding("logind", OK, "does not run, so it removes no regions at logout")
    removes = _remove_ipc()
    if not removes or os.geteuid() < FIRST_USER:
        why = "RemoveIPC=no" if not removes else "leaves system users alone (RemoveIPC=)"
        return Finding("logind", OK, why)
    text = "removes this user's regions when the user's last session ends (RemoveIPC=yes)"
    fix = (
        "run the service as a system user: User= in its unit, or DynamicUser=yes",
        "RemoveIPC=no in /etc/systemd/logind.conf, then systemctl restart systemd-logind",
        "loginctl enable-linger USER keeps a session",
    )
    return Finding("logind", NOTE, text, fix)


def _remove_ipc() -> bool:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    found = [path for pattern in LOGIND for path in sorted(glob.glob(pattern))]
    try:
        parser.read(found)
        return parser.getboolean("Login", "RemoveIPC", fallback=True)
    except (configparser.Error, ValueError, UnicodeDecodeError):
        return True


#: The words of `doctor` for regions in each state, and whether the user should act.
WORTH = {
    "damaged": (BAD, "damaged"),
    "owner died": (BAD, "left by a writer that died"),
    "unlinked but in use": (NOTE, "without a name and still in use"),
    "nobody attached": (NOTE, "without an attached process"),
}


def _regions() -> Iterator[Finding]:
    found = inspection.inspect()
    managed = sum(info.managed for info in found)
    yield Finding("regions", OK, f"{len(found)} on this host, {managed} of them managed")
    for state, (weight, what) in WORTH.items():
        names = [info.name for info in found if info.state == state]
        if names:
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            fix = "shm-async prune" if state == "nobody attached" else "shm-async info NAME"
            yield Finding("regions", weight, f"{len(names)} {what}: {some}", (fix,))
