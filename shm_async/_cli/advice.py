"""Advice in plain words: the problems of a region, and their solutions."""

from shlex import quote

from .._memory.control import pid_namespace
from .._memory.names import COMPANION, SUCCESSOR
from .._memory.proclocks import Holder
from .._watch.inspection import RegionInfo
from . import words

__all__ = ["advice", "who_holds"]

LONG = 10.0  # seconds; the advice names a write lock that is held for longer while others wait


def advice(info: RegionInfo) -> list[str]:
    """Return the problems with their solutions, a sentence or two each; empty if there is none."""
    found = [_condition(info), _permission(info), _left_over(info)]
    found += [_stopped(holder) for holder in info.holders]
    found.append(_waiting(info))
    return [line for line in found if line]


def _condition(info: RegionInfo) -> str | None:
    name = quote(info.name)
    if info.state is None:
        return (
            "It has a writer's mark, but no process that this pid namespace can see writes. Run "
            "this on the host, to see whether a process outside writes, or died."
        )
    if info.state == "damaged":
        return (
            f"{info.problem}. On the command line: `shm-async dump --layout raw --raw {name} > "
            f"FILE` saves the data, `shm-async rm {name}` removes the region."
        )
    if info.state == "owner died":
        return _died(info)
    if info.state == "unlinked but in use":
        return _unlinked(info)
    if info.state == "nobody attached":
        return (
            "No process has it attached. If no program needs it any more, "
            f"`shm-async prune --force {name}` or `shm-async rm {name}` removes it."
        )
    return None


def _died(info: RegionInfo) -> str:
    name = quote(info.name)
    return (
        f"{_dead_writer(info)} ended while it wrote, so the data may be half-written, and the next "
        "program that takes the lock gets OwnerDiedError. Look at the data with `shm-async dump "
        f"--ignore-death {name}`; repair it with `shm-async set --recover {name} "
        "INDEX VALUE`, or in the program with write_lock(recover=True) or on_owner_death=."
    )


def _dead_writer(info: RegionInfo) -> str:
    if not info.control:
        return f"Process {words.UNKNOWN}"
    pid, namespace = info.control["writer_pid"], info.control["writer_ns"]
    if namespace in (0, pid_namespace()):
        return f"Process {pid!s}"
    return f"Process {pid!s} of another pid namespace (pid:[{namespace!s}])"


def _unlinked(info: RegionInfo) -> str:
    if (info.control or {}).get("replaced"):
        return (
            "It was resized, and another region has its name. At their next lock, the processes "
            "that have this one attach to the new one, or get an error that says so."
        )
    return (
        "Its name was removed while processes have it mapped. Programs that attach now do not find "
        "it, and may make a second region. Restart the processes that have it, so that they attach "
        "again; its memory is freed when the last of them ends."
    )


def _permission(info: RegionInfo) -> str | None:
    if info.layout is not None or not info.problem:
        return None
    told = f"{info.problem[0].upper()}{info.problem[1:]}."
    if not info.problem.endswith("ermission denied") or info.uid is None:
        return told
    return f"{told} Run this as {words.user(info.uid)} or root to see more."


def _left_over(info: RegionInfo) -> str | None:
    if info.name.startswith(COMPANION):
        what = "the lock of a System V segment that is gone"
    elif info.name.startswith(SUCCESSOR):
        what = "an object of a resize that was killed, or is under way"
    else:
        return None
    return f"It is {what}. `shm-async prune --force` removes it if it is unused."


def _stopped(holder: Holder) -> str | None:
    if holder.pid is None or _process_state(holder.pid) not in ("T", "t"):
        return None
    return (
        f"{who(holder)} holds the lock and is stopped (SIGSTOP, Ctrl-Z or a debugger). "
        f"`kill -CONT {holder.pid}` lets it go on; `kill -KILL {holder.pid}` ends it, and the lock."
    )


def _waiting(info: RegionInfo) -> str | None:
    if not info.waiters or not info.holders:
        return None
    first = info.holders[0]
    if first.since is None or first.since < LONG:
        return None
    return (
        f"{len(info.waiters)} wait for {who(first)}, which has written for "
        f"{words.duration(first.since)}. If it hangs, end it: the kernel then frees the lock."
    )


def who(holder: Holder) -> str:
    """Return the words for a process in a sentence."""
    return f"Process {words.amount(holder.pid)} ({holder.command or words.UNKNOWN})"


def who_holds(holders: tuple[Holder, ...]) -> str:
    """Return the holders of a lock, for the end of a message."""
    if not holders:
        return "no process that can be seen holds it now: try again"
    parts = []
    for holder in holders[:3]:
        time = "" if holder.since is None else f" for {words.duration(holder.since)}"
        name = holder.command or words.UNKNOWN
        parts.append(f"{words.amount(holder.pid)} {name} ({holder.kind}{time})")
    more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
    return f"held by {', '.join(parts)}{more}"


def _process_state(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return None
