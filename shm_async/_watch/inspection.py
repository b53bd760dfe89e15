"""Inspect: the regions of this host, their users and their states, without touching them.

It takes no lock, breaks no lease, and creates and maps nothing. So any user may call it at any
time. A fact that the kernel does not tell, or not to this user, is None.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from .._memory import processes, proclocks
from .._memory.control import pid_namespace, start_of
from .._memory.names import SHM_DIR
from .._memory.processes import Process, Usage
from .._memory.proclocks import Holder, Row
from .._native import PRESENCE_BYTE
from . import objects
from .objects import Found
from .pages import Fields, Page, read_page

__all__ = ["RegionInfo", "State", "inspect"]

#: The state of a region: the first of these that is true.
State: TypeAlias = Literal[
    "damaged", "owner died", "unlinked but in use", "writing", "reading", "nobody attached", "idle"
]


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """A region of this host, ours or not, as it was when `inspect` ran. None: not known."""

    __module__ = "shm_async"

    name: str  #: without a slash; for a System V segment its key, in hex
    key: int | None  #: of a System V segment
    id: int | None  #: its shmid
    linked: bool  #: the name, or the key, leads to it; else its memory ends with its last user
    size: int  #: bytes of the object, control page and all
    allocated: int | None  #: bytes of memory that it takes up
    layout: Literal["managed", "raw"] | None  #: a sized one looks raw, as only its users know
    nbytes: int | None  #: bytes of data
    dtype: str | None  #: of the elements; None also for a raw region, which does not record it
    shape: tuple[int, ...] | None  #: elements in each dimension; None as for dtype
    uid: int | None  #: its owner
    gid: int | None  #: its group
    mode: int | None  #: permission bits
    processes: tuple[Process, ...]  #: that have it mapped, as far as this user can see them
    complete: bool  #: no process can be missing there
    attachments: int | None  #: the kernel's count of a System V segment (shm_nattch); for
    #: other regions the attachments of this package, in any namespace
    holders: tuple[Holder, ...]  #: of the lock
    waiters: tuple[Holder, ...]  #: for the lock
    generation: int | None  #: as `Region.generation`; None where there is no control page
    writes: int | None  #: writes that have ended since it was created
    written_ago: float | None  #: seconds since the last write began
    state: State | None  #: None if a writer died, or writes, where this pid namespace cannot see it
    problem: str | None  #: why its control page is damaged, or could not be read
    control: Fields | None  #: the fields of the control page, unchecked

    @property
    def managed(self) -> bool:
        """Whether it is a region of this package, with a control page."""
        return self.layout == "managed"


def inspect(pattern: str = "*", *, descriptors: bool = False) -> tuple[RegionInfo, ...]:
    """Return the regions on this host: POSIX and System V, ours and those of other programs.

    Takes no lock, breaks no lease, creates and maps nothing, never counts as attached, and needs
    no permission: a fact that this user may not know is None. It reads the kernel's list of locks
    once and the maps of every process once, so 1,000 regions take some 0.1 s. It never waits for
    another process. The parts are of slightly different moments. Works in a forked child.

    It reads the control page of a System V segment through a process that has it attached, as an
    attachment of its own would count. If no such process is readable, the layout is None.

    Args:
        pattern: a shell pattern of the names to return. A System V segment's name is its key,
            "0x00001234".
        descriptors: also find the processes that have the file open, and their descriptors for
            it. That reads every descriptor of the host.

    Returns:
        The regions by name. A region that has lost its name, and is still mapped, follows the
        one that has the name now.

    Raises:
        OSError: /dev/shm cannot be listed, or there is no /proc.
    """
    look = _Look(descriptors=descriptors)
    found = [each for each in look.found() if fnmatchcase(each.name, pattern)]
    infos = [look.describe(each) for each in found]
    return tuple(sorted(infos, key=lambda info: (info.name, not info.linked, info.id or 0)))


inspect.__module__ = "shm_async"


class _Look:
    """The facts of the host that one call of `inspect` reads once for all regions."""

    def __init__(self, *, descriptors: bool) -> None:
        self.device = os.stat(SHM_DIR).st_dev
        self.usage: Usage = processes.usage_of_host(self.device)
        self.rows = self._read_rows()
        self.descriptors: dict[int, dict[int, list[int]]] | None = None
        if descriptors:
            self.descriptors = processes.descriptors_of_host(self.device, SHM_DIR)

    def _read_rows(self) -> dict[int, list[Row]]:
        """Return the kernel's locks of objects of that device, by inode."""
        place = (os.major(self.device), os.minor(self.device))
        found: defaultdict[int, list[Row]] = defaultdict(list)
        for row in proclocks.rows_of_host(SHM_DIR):
            if row.object[:2] == place:
                found[row.object[2]].append(row)
        return found

    def found(self) -> Iterator[Found]:
        """Yield all objects and segments, except the objects that carry the segments' locks."""
        segments = list(objects.segments_of_host(self.usage))
        companions = {each.inode for each in segments}
        for each in objects.objects_of_host(self.usage, self.device):
            if each.inode not in companions:
                yield each
        yield from segments

    def describe(self, found: Found) -> RegionInfo:
        """Return the RegionInfo of one of them."""
        rows = self._rows_of(found)
        page = read_page(found, rows)
        died = _seems_dead(page, rows)
        if died:  # or the writer began or ended between the two reads: read both once more
            self.rows = self._read_rows()
            rows = self._rows_of(found)
            died = _seems_dead(page, rows) and read_page(found, rows).mark == page.mark
        return self._info(found, page, rows, died=died)

    def _rows_of(self, found: Found) -> list[Row]:
        return [] if found.inode is None else self.rows.get(found.inode, [])

    def _info(self, found: Found, page: Page, rows: list[Row], *, died: bool) -> RegionInfo:
        everyone = proclocks.holders_of(rows, page.mark)
        holders = tuple(each for each in everyone if not each.waiting)
        people = self._processes(found)
        attachments = found.attached if found.key is not None else _present(rows)
        unused = not attachments and not people and (self.usage.complete or page.layout != "raw")
        generation = page.number("generation")
        hidden = (attachments or 0) > len(people) and self._may_be_hidden(page)
        state = None if died and hidden else _state(found, page, holders, died=died, unused=unused)
        return RegionInfo(
            name=found.name,
            key=found.key,
            id=found.id,
            linked=found.linked,
            size=found.size,
            allocated=found.allocated,
            layout=page.layout,
            nbytes=_nbytes(found, page),
            dtype=page.control.dtype if page.control else None,
            shape=page.control.shape if page.control else None,
            uid=found.uid,
            gid=found.gid,
            mode=found.mode,
            processes=people,
            complete=self.usage.complete,
            attachments=attachments,
            holders=holders,
            waiters=tuple(each for each in everyone if each.waiting),
            generation=generation,
            writes=None if generation is None else generation // 2,
            written_ago=_ago(page.number("writer_since")),
            state=state,
            problem=page.problem,
            control=page.fields,
        )

    def _may_be_hidden(self, page: Page) -> bool:
        """Tell whether the writer may be in an outer namespace, so its lock is hidden from us."""
        ours = page.mark is not None and page.mark.namespace == pid_namespace()
        return not ours and not self.usage.outermost

    def _processes(self, found: Found) -> tuple[Process, ...]:
        if self.descriptors is None:
            return processes.processes(found.uses, None)
        posix = found.key is None and found.inode is not None
        open_in = self.descriptors.get(found.inode or 0, {}) if posix else {}
        return processes.processes(found.uses, open_in)


# ---- judgement -------------------------------------------------------------------------


def _state(
    found: Found, page: Page, holders: tuple[Holder, ...], *, died: bool, unused: bool
) -> State:
    if page.damaged:
        return "damaged"
    if died:
        return "owner died"
    if not found.linked:
        return "unlinked but in use"
    kinds = {each.kind for each in holders}
    if kinds:
        return "writing" if "write" in kinds else "reading"
    return "nobody attached" if unused else "idle"


def _seems_dead(page: Page, rows: list[Row]) -> bool:
    """Tell whether there is a writer's mark, and no holder of the lock can be that writer."""
    mark = page.mark
    if mark is None:
        return False
    writers = [row for row in rows if row.flock and row.kind == "write" and not row.waiting]
    # its pid may be another in its own pid namespace, but it began at the same time
    return not any(
        row.pid is None or not mark.start or start_of(row.pid) == mark.start for row in writers
    )


def _present(rows: list[Row]) -> int:
    """Count the attachments of this package: each has a shared lock of one byte of the object."""
    return sum(
        row.sort == "OFDLCK" and row.start == PRESENCE_BYTE and not row.waiting for row in rows
    )


def _nbytes(found: Found, page: Page) -> int | None:
    if page.control is not None:
        return page.control.nbytes
    return found.size if page.layout == "raw" else None


def _ago(since: int | None) -> float | None:
    """Return the seconds since `since`, in nanoseconds of CLOCK_MONOTONIC; None if that is 0."""
    if not since:
        return None
    nanoseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - since
    return nanoseconds / 1e9 if nanoseconds >= 0 else None
