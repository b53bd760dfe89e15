"""Room: the bytes that /dev/shm, the machine and its control groups can still give.

The kernel kills a process that touches more memory than is left. So a size that cannot fit is
refused beforehand, with figures. The check must not be stricter than the kernel: a limit that
is in no file of the kernel does not count.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["HOST", "OFF_MAX", "Host", "Memory", "check", "check_memory", "no_room"]

OFF_MAX = 2**63 - 1  # bytes: the largest value of the kernel's off_t

#: A limit of control groups version 1 of this value or more stands for "none".
NO_LIMIT = 1 << 62

#: A request of at most so many bytes does not read how much memory is left, which takes a third
#: of a millisecond: the interpreter itself may take as many bytes at any moment.
NEGLIGIBLE = 1 << 16

#: The names of the cache of files in memory.stat, by version of control groups.
CACHE = {
    1: ("total_active_file", "total_inactive_file"),
    2: ("active_file", "inactive_file", "slab_reclaimable"),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """The rest of one limit."""

    left: int  # bytes
    limit: str  # the name of the limit, for messages


@dataclass(frozen=True, slots=True)
class Host:
    """The directories to read the facts of the host from."""

    shm: str = "/dev/shm"
    proc: str = "/proc"
    root: str = "/"  # where container engines leave their marks

    def free_bytes(self) -> int:
        """Return the file system's free bytes; OFF_MAX: it has no limit (size=0, ramfs)."""
        room = os.statvfs(self.shm)
        return room.f_bavail * room.f_frsize if room.f_blocks else OFF_MAX

    def memory(self, wanted: int = OFF_MAX) -> Memory:
        """Return the tightest limit on the memory and swap that this process may still touch.

        A limit that leaves `wanted` bytes is not examined further.
        """
        facts = _facts(f"{self.proc}/meminfo", unit=1024)
        swap = facts.get("SwapFree", 0)
        left = facts["MemAvailable"] + swap if "MemAvailable" in facts else OFF_MAX
        tightest = Memory(left, "memory and swap available")
        for group, version in _groups(self.proc):
            limits = _limits_v2(group, swap) if version == 2 else _limits_v1(group, swap)
            for memory in limits:
                if memory.left < min(wanted, tightest.left):
                    tightest = min(tightest, _with_cache(memory, group, version), key=_left)
        return tightest

    def how_to_enlarge(self) -> str:
        """Return how to make /dev/shm larger here, in a container or on a host."""
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            return f"mount an emptyDir with medium: Memory and a larger sizeLimit at {self.shm}"
        if os.path.exists(f"{self.root}/.dockerenv"):
            return "docker run --shm-size=..., or shm_size: in a compose file"
        if os.path.exists(f"{self.root}/run/.containerenv"):
            return "podman run --shm-size=..."
        return f"mount -o remount,size=... {self.shm}; in a container: docker run --shm-size=..."


HOST = Host()


# ---- refusing ------------------------------------------------------------------


def check(name: str, size: int, *, reserve: bool, host: Host | None = None) -> None:
    """Refuse at once a size that cannot fit: an attempt would first use up all memory left.

    Raises:
        OSError: ENOSPC, ENOMEM (reserving it would bring the out-of-memory killer) or EFBIG.
    """
    if reserve and size > (host or HOST).free_bytes():
        raise no_room(name, size, host)
    check_memory(name, size, reserve=reserve, host=host)


def check_memory(name: str, size: int, *, reserve: bool, host: Host | None = None) -> None:
    """Do the same for memory outside of /dev/shm, such as a System V segment's.

    Raises:
        OSError: ENOMEM or EFBIG.
    """
    if size > OFF_MAX:
        raise OSError(errno.EFBIG, f"{size} bytes wanted, more than an object can have", name)
    if not reserve or size <= NEGLIGIBLE:
        return
    memory = (host or HOST).memory(size)
    if size > memory.left:
        raise OSError(
            errno.ENOMEM,
            f"{size} bytes wanted, {memory.left} bytes of {memory.limit}: "
            "ask for less, or create it with reserve=False",
            name,
        )


def no_room(name: str, size: int, host: Host | None = None) -> OSError:
    """Return the exception for a size that exceeds the free bytes of /dev/shm."""
    host = host or HOST
    return OSError(
        errno.ENOSPC,
        f"{size} bytes wanted, {host.free_bytes()} bytes free in {host.shm}: "
        f"remove unused regions, or make it larger ({host.how_to_enlarge()})",
        name,
    )


# ---- control groups ---------------------------------------------------------------
#
# Every group from the process's own up to the topmost visible one limits the memory that it may
# still touch. A group counts the cache of files as used, but the kernel drops that cache before
# it kills a process. memory.high only slows a group down, so it is no limit.


def _limits_v2(group: str, host_swap: int) -> Iterator[Memory]:
    """Yield the rest of the limit of a group of version 2, without its cache, if it has one."""
    swap = host_swap
    if host_swap and (swap_limit := _number(f"{group}/memory.swap.max")) is not None:
        swap = min(swap, max(0, swap_limit - (_number(f"{group}/memory.swap.current") or 0)))
    yield from _limit(f"{group}/memory.max", f"{group}/memory.current", swap)


def _limits_v1(group: str, host_swap: int) -> Iterator[Memory]:
    """Yield the same for a group of version 1: for memory alone, and for memory with swap."""
    for sort, swap in (("memory", host_swap), ("memory.memsw", 0)):
        yield from _limit(f"{group}/{sort}.limit_in_bytes", f"{group}/{sort}.usage_in_bytes", swap)


def _limit(limit_file: str, used_file: str, swap: int) -> Iterator[Memory]:
    limit = _number(limit_file)
    used = None if limit is None else _number(used_file)
    if limit is not None and used is not None:
        yield Memory(
            limit - used + swap, f"the control group's limit left ({limit} bytes, {limit_file})"
        )


def _with_cache(memory: Memory, group: str, version: int) -> Memory:
    """Add the cache that the kernel could drop."""
    facts = _facts(f"{group}/memory.stat")
    cache = sum(facts.get(key, 0) for key in CACHE[version])
    return Memory(max(0, memory.left + cache), memory.limit)


def _left(memory: Memory) -> int:
    return memory.left


def _groups(proc: str) -> Iterator[tuple[str, int]]:
    """Yield each group that counts this process's memory, innermost first, and its version."""
    mounts = list(_mounts(f"{proc}/self/mountinfo"))
    for line in _lines(f"{proc}/self/cgroup"):
        words = line.split(":", 2)
        if len(words) < 3:
            continue
        wanted = 1 if "memory" in words[1].split(",") else 0 if words[1] else 2
        for version, root, point in mounts:
            if version == wanted:
                yield from ((group, version) for group in _upwards(words[2], root, point))
                break


def _upwards(path: str, root: str, point: str) -> Iterator[str]:
    """Yield the directories from the group at `path` up to the mount point of the hierarchy.

    In a container `path` may lie outside of the mounted part. Then the mount point is its own
    group.
    """
    inside = f"{path}/".startswith(f"{root.rstrip('/')}/") and ".." not in path.split("/")
    here = path.removeprefix(root.rstrip("/")).strip("/") if inside else ""
    while here:
        yield f"{point}/{here}"
        here = here.rpartition("/")[0]
    yield point


def _mounts(mountinfo: str) -> Iterator[tuple[int, str, str]]:
    """Yield version, root and mount point of each hierarchy that may limit memory."""
    for line in _lines(mountinfo):
        if " - cgroup" not in line:
            continue
        before, _, after = line.partition(" - ")
        place, sort = before.split(), after.split()
        if sort[0] == "cgroup2":
            yield 2, _plain(place[3]), _plain(place[4])
        elif sort[0] == "cgroup" and "memory" in sort[-1].split(","):
            yield 1, _plain(place[3]), _plain(place[4])


def _plain(path: str) -> str:
    """Undo the kernel's escapes of blanks and backslashes in a path."""
    for written, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(written, meant)
    return path


# ---- reading ------------------------------------------------------------------


def _lines(path: str) -> list[str]:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _number(path: str) -> int | None:
    """Return the limit, or amount, in a file; None: it has none, as with "max"."""
    for line in _lines(path):
        return int(line) if line.isdecimal() and int(line) < NO_LIMIT else None
    return None


def _facts(path: str, unit: int = 1) -> dict[str, int]:
    """Return the numbers of a file with a word and a number in each line, in bytes."""
    words = [line.split() for line in _lines(path)]
    return {
        pair[0].removesuffix(":"): int(pair[1]) * unit
        for pair in words
        if len(pair) >= 2 and pair[1].isdecimal()
    }
