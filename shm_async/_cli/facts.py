"""The facts of inspect() as JSON, with keys that stay: docs/command.md documents each."""

from typing import Any

from .._memory.processes import Process
from .._memory.proclocks import Holder
from .._watch.inspection import RegionInfo
from .words import user

__all__ = ["holder_json", "print_json", "region_json"]


def print_json(value: object) -> None:
    """Print one object, or one array."""
    import json

    print(json.dumps(value, indent=2))


def region_json(info: RegionInfo) -> dict[str, Any]:
    """Return a region, as `ls --json` has it."""
    return {
        "name": info.name,
        "kind": "posix" if info.key is None else "sysv",
        "key": info.key,
        "id": info.id,
        "linked": info.linked,
        "size": info.size,
        "allocated": info.allocated,
        "layout": info.layout,
        "nbytes": info.nbytes,
        "dtype": info.dtype,
        "shape": info.shape,
        "uid": info.uid,
        "user": None if info.uid is None else user(info.uid),
        "gid": info.gid,
        "mode": None if info.mode is None else f"{info.mode:04o}",
        "processes": [process_json(each) for each in info.processes],
        "complete": info.complete,
        "attachments": info.attachments,
        "holders": [holder_json(each) for each in info.holders],
        "waiters": [holder_json(each) for each in info.waiters],
        "generation": info.generation,
        "writes": info.writes,
        "written_ago": info.written_ago,
        "state": info.state,
        "problem": info.problem,
    }


def process_json(process: Process) -> dict[str, Any]:
    """Return a process that has a region."""
    return {
        "pid": process.pid,
        "command": process.command,
        "mapped": process.mapped,
        "descriptors": process.descriptors,
    }


def holder_json(holder: Holder) -> dict[str, Any]:
    """Return a holder of the lock, or a waiter for it."""
    return {
        "pid": holder.pid,
        "command": holder.command,
        "kind": holder.kind,
        "waiting": holder.waiting,
        "seconds": holder.since,
    }


def control_json(info: RegionInfo) -> dict[str, Any] | None:
    """Return the control page, field by field."""
    if info.control is None:
        return None
    return {
        name: value.rstrip(b"\0").decode("latin-1") if isinstance(value, bytes) else value
        for name, value in info.control.items()
    }
