"""The checks of `doctor` of room: /dev/shm, the control group, memory locks, System V."""

import os
import resource
from collections.abc import Iterator

from .._memory.names import SHM_DIR
from . import words
from .finding import BAD, NOTE, OK, Finding, first_line

__all__ = ["findings"]

DOCKERS = 64 << 20  # bytes: the default size of /dev/shm in a container
FULL = 0.9
LARGER = (
    "Docker: --shm-size=1g, in Compose shm_size: 1g",
    "Kubernetes: mount an emptyDir with medium: Memory and a sizeLimit at /dev/shm",
    "a host: mount -o remount,size=2g /dev/shm, and the same size in /etc/fstab",
    "systemd: TemporaryFileSystem=/dev/shm:size=1g,mode=1777 for a /dev/shm of the unit's own",
)
MORE_MEMORY = (
    "Docker: a larger --memory",
    "Kubernetes: a larger resources.limits.memory",
    "systemd: a larger MemoryMax= in the unit",
)
MORE_LOCKED = (
    "a shell: ulimit -l, within the hard limit; memlock in /etc/security/limits.conf",
    "systemd: LimitMEMLOCK=infinity in the unit",
    "Docker: --ulimit memlock=-1",
)
MORE_FILES = ("a shell: ulimit -n 65536", "systemd: LimitNOFILE=65536 in the unit")


def findings() -> Iterator[Finding]:
    """Yield the findings about sizes and limits."""
    yield _room()
    yield _control_group()
    yield _locked_memory()
    yield _open_files()
    yield _system_v()


def _room() -> Finding:
    try:
        room = os.statvfs(SHM_DIR)
    except OSError as error:
        return Finding(SHM_DIR, BAD, f"cannot be looked at: {error.strerror}", LARGER)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    text = f"{words.size(total)}, {words.size(free)} of them free"
    if not os.access(SHM_DIR, os.W_OK | os.X_OK):
        fix = ("mount a tmpfs there with mode=1777", *LARGER)
        return Finding(SHM_DIR, BAD, f"{text}; this user may not create anything in it", fix)
    if not total:
        return Finding(SHM_DIR, OK, "no limit of its own, as much as there is memory")
    if free < total * (1 - FULL):
        fix = ("shm-async ls --sort size, shm-async prune", *LARGER)
        return Finding(SHM_DIR, BAD, f"{text}: almost full", fix)
    if total <= DOCKERS:
        return Finding(SHM_DIR, NOTE, f"{text}: the default size in a container", LARGER)
    return Finding(SHM_DIR, OK, text)


def _control_group() -> Finding:
    limit = _memory_limit()
    if limit is None:
        return Finding("cgroup", OK, "no limit of memory that can be seen")
    room = os.statvfs(SHM_DIR) if os.path.isdir(SHM_DIR) else None
    text = f"memory is limited to {words.size(limit)}, and what lies in {SHM_DIR} counts"
    if room is not None and room.f_blocks * room.f_frsize > limit:
        text += f": {SHM_DIR} could fill it, and the kernel would end processes"
        return Finding("cgroup", NOTE, text, MORE_MEMORY)
    return Finding("cgroup", OK, text)


def _memory_limit() -> int | None:
    """Return the lowest limit of the control groups that this process is in, in bytes."""
    places = ["/sys/fs/cgroup"]
    for part in (first_line("/proc/self/cgroup") or "").partition("::")[2].split("/"):
        places.append(f"{places[-1]}/{part}" if part else places[-1])
    found = [first_line(f"{place}/memory.max") for place in places]
    found.append(first_line("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # version 1
    limits = [int(limit) for limit in found if limit is not None and limit.isdecimal()]
    lowest = min(limits, default=None)
    return None if lowest is None or lowest >= _all_memory() else lowest


def _all_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _locked_memory() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Finding("memlock", OK, "lock_memory=True has no limit")
    text = f"lock_memory=True may keep {words.size(soft)} in memory"
    if hard != soft:
        text += f" (the hard limit is {_limit(hard)})"
    if os.geteuid() == 0:
        return Finding("memlock", OK, f"{text}; root has no limit")
    return Finding("memlock", NOTE if soft < 64 << 20 else OK, text, MORE_LOCKED)


def _limit(value: int) -> str:
    return "none" if value == resource.RLIM_INFINITY else words.size(value)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} files may be open in a process; a region takes 1, and 1 for each lock in use"
    return Finding("open files", NOTE if soft < 1024 else OK, text, MORE_FILES)


def _system_v() -> Finding:
    names = ("shmmax", "shmall", "shmmni")
    limits = [first_line(f"/proc/sys/kernel/{name}") for name in names]
    if None in limits:
        return Finding("System V", NOTE, "this kernel has no System V segments: use names", ())
    try:
        with open("/proc/sysvipc/shm") as file:
            used = len(file.readlines()) - 1
    except OSError:
        used = 0
    largest, pages, segments = (int(limit or 0) for limit in limits)
    text = f"{used} of {segments} segments in use, one may have {words.size(largest)}"
    fix = ("sysctl -w kernel.shmmni=... kernel.shmall=... kernel.shmmax=...", "ipcs -m; ipcrm")
    small = used >= segments * FULL or pages < 1 << 14
    return Finding("System V", BAD if small else OK, text, fix)
