"""What the page is told: a table of the regions each second, and values whenever they change."""

import json
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

import anyio

from ..._lock.statistics import WAIT_BOUNDS
from ..._memory.names import SHM_DIR
from ..._region import Region
from ..._watch.inspection import RegionInfo, inspect
from ...errors import ShmError
from .._figures import Figures, add
from .._together import Purposes, figures_of_table, may_be_table, purposes_of_table

__all__ = ["Feed"]

#: Seconds between two tables, and at least between two sets of values.
TICK = 1.0
PAUSE = 0.05

#: Seconds for which the values wait for a writer before the page says so.
PATIENCE = 1.0

MOST_VALUES = 256
MOST_PEOPLE = 20

#: Sends one event to the page.
Tell: TypeAlias = Callable[[str], Awaitable[None]]


class Feed:
    """Tells pages of the regions that match."""

    def __init__(self, names: tuple[str, ...], shared: str | None) -> None:
        self._names = names
        self._shared = shared
        self._pages: set[anyio.CancelScope] = set()

    def end(self) -> None:
        """End what all pages of this event loop are told. Never blocks and raises nothing."""
        for scope in self._pages:
            scope.cancel()

    async def tell_all(self, chosen: str | None, tell: Tell) -> None:
        """Tell one page of everything, until `end`. Waits in the loop; cancellable."""
        try:
            async with anyio.create_task_group() as group:
                self._pages.add(group.cancel_scope)
                group.start_soon(self._tell_of_all, chosen, tell)
                if chosen is not None and self._wanted(chosen):
                    group.start_soon(_tell_values, chosen, tell)
        finally:
            self._pages.discard(group.cancel_scope)

    def _wanted(self, name: str) -> bool:
        return not self._names or any(fnmatchcase(name, pattern) for pattern in self._names)

    async def _tell_of_all(self, chosen: str | None, tell: Tell) -> None:
        before: dict[str, tuple[int, float]] = {}
        while True:
            infos, figures, purposes = await anyio.to_thread.run_sync(self._look)
            now = time.monotonic()
            rows = [_row(info, before.get(info.name), now) for info in infos]
            for row, info in zip(rows, infos, strict=True):
                if info.name == chosen:
                    label = purposes.get(info.name, {}).get(info.generation or 0)
                    row["detail"] = _detail(info, figures.get(info.name), label)
            before = {info.name: (info.writes or 0, now) for info in infos}
            await tell(_event("regions", rows))
            await tell(_event("room", _room()))
            await anyio.sleep(TICK)

    def _look(self) -> tuple[list[RegionInfo], Figures, Purposes]:
        infos = [each for each in inspect() if each.managed and each.linked]
        tables = [each.name for each in infos if may_be_table(each)]
        figures: Figures = {}
        purposes: Purposes = {}
        for table in tables if self._shared is None else [self._shared]:
            with suppress(ShmError, OSError):
                add(figures, figures_of_table(table))
                for name, found in purposes_of_table(table).items():
                    purposes.setdefault(name, {}).update(found)
        return [each for each in infos if self._wanted(each.name)], figures, purposes


def _event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


def _room() -> dict[str, int]:
    """Bytes of /dev/shm: all regions of the host share it."""
    room = os.statvfs(SHM_DIR)
    total = room.f_blocks * room.f_frsize
    return {"total": total, "used": total - room.f_bfree * room.f_frsize}


# ---- the table -------------------------------------------------------------------------


def _row(info: RegionInfo, before: tuple[int, float] | None, now: float) -> dict[str, Any]:
    rate = None
    if before is not None and info.writes is not None:
        rate = round(max(0, info.writes - before[0]) / (now - before[1]), 1)
    shape = " x ".join(map(str, info.shape or ()))
    return {
        "name": info.name,
        "type": f"{shape} {info.dtype}" if info.dtype else "unknown",
        "bytes": info.nbytes or 0,
        "holder": ", ".join(_holder(each) for each in info.holders[:3]),
        "waiting": len(info.waiters),
        "rate": rate,
        "died": info.state == "owner died",
    }


def _detail(info: RegionInfo, figures: dict[str, Any] | None, label: str | None) -> dict[str, Any]:
    """What is told of the chosen region alone; `label` is that of the write that goes on."""
    people = [*info.holders, *info.waiters][:MOST_PEOPLE]
    known = None
    if figures is not None:
        known = {
            "waits": figures["waits"],
            "bounds": WAIT_BOUNDS,
            "all": _locks(figures),
            "labels": {label: _locks(its) for label, its in figures["labels"].items()},
        }
    return {
        "writes": info.writes,
        "ago": info.written_ago,
        "attached": info.attachments,
        "processes": [f"{each.command or '?'} ({each.pid})" for each in info.processes],
        "people": [
            {
                "name": f"{each.command or '?'} ({each.pid})" if each.pid else "not known",
                "kind": each.kind or "not known",
                "waiting": each.waiting,
                "since": each.since,
                "label": label if each.kind == "write" and not each.waiting else None,
            }
            for each in people
        ],
        "figures": known,
    }


def _locks(figures: dict[str, Any]) -> dict[str, Any]:
    keys = ("reads", "writes", "contended", "waited", "holds", "held", "longest_hold")
    return {key: figures[key] for key in keys}


def _holder(holder: Any) -> str:
    return f"{holder.kind}: {holder.command or '?'} ({holder.pid or '?'})"


# ---- the values ------------------------------------------------------------------------


async def _tell_values(name: str, tell: Tell) -> None:
    """Tell the values of a region now and after each change; begin again if it cannot be had."""
    while True:
        try:
            with Region.attach(name, readonly=True, on_owner_death="ignore", follow=True) as region:
                await _tell_changes(region, tell)
        except (ShmError, OSError) as error:
            await tell(_event("values", {"name": name, "problem": str(error)}))
        await anyio.sleep(TICK)


async def _tell_changes(region: Region, tell: Tell) -> None:
    changes = region.changes()
    while True:
        data = await _copy(region, tell)
        told = {"name": region.name, "time": time.time(), "values": _values(region, data)}
        await tell(_event("values", told))
        await anyio.sleep(PAUSE)
        with anyio.move_on_after(TICK):  # the chart goes on where nothing changes
            await anext(changes)


async def _copy(region: Region, tell: Tell) -> bytes:
    """Copy the data; tell if writers take turns, so that it has to wait for one of its own."""
    with anyio.move_on_after(PATIENCE):
        return await region.snapshot_async()
    await tell(_event("values", {"name": region.name, "busy": True}))
    return await region.snapshot_async()


def _values(region: Region, data: bytes) -> list[str]:
    """The first elements, as text: JavaScript's numbers have 53 bits."""
    form = region.buffer.format
    try:
        elements = memoryview(data).cast(cast("Any", form))  # it raises what stands below
        return [str(each) for each in elements[:MOST_VALUES]]
    except (ValueError, NotImplementedError):  # memoryview cannot read float16 before Python 3.12
        return [str(each) for each in data[:MOST_VALUES]]
