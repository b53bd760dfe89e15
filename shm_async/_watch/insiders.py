"""The tasks and threads of this process that hold or await a region's lock, and their lines.

The kernel lists processes, and one request of each event loop. Only the process itself knows
which line holds the lock, and which tasks wait in an event loop's queue: this module adds that.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from .._lock.call_sites import place_of_task, place_of_thread
from .._lock.cohort import Cohort
from .._lock.labels import with_label
from .._lock.loops import Task
from .._lock.ofd import EXCLUSIVE
from .._lock.seat import Pool
from .._memory.proclocks import Holder, Kind, command_of
from .._native import lock_mode

__all__ = ["describe", "insiders", "with_insiders"]

#: Tasks that are named if several read together.
MAX_NAMED = 3

#: The low half of a thread's number, in the shim, is the kernel's id of the thread.
THREAD_ID = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Insider:
    """A task or a thread of this process, or the tasks of an event loop that read together."""

    kind: Kind
    waiting: bool
    listed: bool  # the kernel lists it, too
    where: str | None
    label: str | None


#: Labels by the id of the place and the task to which a cohort counts the hold: see long_way.py.
Labels = Mapping[tuple[int, Task], str]


def insiders(cohorts: Iterable[Cohort], pool: Pool, labels: Labels) -> list[Insider]:
    """Return the holders of the lock through one region, and the waiting tasks, at this moment."""
    found = [insider for cohort in cohorts for insider in _of_cohort(cohort, labels)]
    return found + list(_of_pool(pool, labels))


def _of_cohort(cohort: Cohort, labels: Labels) -> Iterator[Insider]:
    writer, readers, queue = cohort.writer, list(cohort.readers), list(cohort.queue)
    asking = cohort.request.under_way
    if writer is not None:
        where = place_of_task(writer, cohort.thread)
        yield Insider("write", False, True, where, labels.get((id(cohort), writer)))
    elif readers:
        known = [labels.get((id(cohort), reader)) for reader in readers]
        label = ", ".join(sorted({label for label in known if label is not None})) or None
        yield Insider("read", False, True, _places(readers, cohort.thread), label)
    for number, waiter in enumerate(queue):
        kind = _kind(waiter.exclusive)
        listed = asking and number == 0  # its request is at the kernel
        where = place_of_task(waiter.task, cohort.thread)
        yield Insider(kind, True, listed, where, waiter.label)


def _places(tasks: Sequence[object], thread: int) -> str:
    named = [place_of_task(task, thread) for task in tasks[:MAX_NAMED]]
    more = len(tasks) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _of_pool(pool: Pool, labels: Labels) -> Iterator[Insider]:
    for seat in list(pool.seats):
        mode = lock_mode(seat.handle)
        if mode:
            where = place_of_thread(seat.handle.taker & THREAD_ID)
            label = labels.get((id(seat), None))
            yield Insider(_kind(mode == EXCLUSIVE), False, True, where, label)


def _kind(exclusive: bool) -> Kind:
    return "write" if exclusive else "read"


# ---- beside what the kernel lists --------------------------------------------------


def describe(seen: Sequence[Holder]) -> str:
    """Name the holders of the lock, for a log."""
    holding = [each for each in seen if not each.waiting]
    return "; ".join(map(_description, holding)) or "no process that can be seen from here"


def _description(holder: Holder) -> str:
    pid = "unknown" if holder.pid is None else holder.pid
    words = [f"process {pid} ({holder.command})", with_label(f"{holder.kind} lock", holder.label)]
    if holder.since is not None:
        words.append(f"for {holder.since:.3f} s")
    if holder.where is not None:
        words.append(holder.where)
    return ", ".join(words)


def with_insiders(seen: Sequence[Holder], ours: Sequence[Insider]) -> tuple[Holder, ...]:
    """Return the kernel's list, completed by the places and tasks that this process knows."""
    pid = os.getpid()
    found = list(seen)
    for kind, waiting in product(("read", "write"), (False, True)):
        rows = [
            index
            for index, each in enumerate(found)
            if (each.pid, each.kind, each.waiting) == (pid, kind, waiting)
        ]
        known = [one for one in ours if one.listed and (one.kind, one.waiting) == (kind, waiting)]
        if len(rows) == len(known):  # else another region of the same object has some of them
            for index, one in zip(rows, known, strict=True):
                found[index] = replace(found[index], where=one.where, label=one.label)
    mine = command_of(pid)
    found += [
        Holder(pid, mine, one.kind, True, None, one.where, one.label)
        for one in ours
        if not one.listed
    ]
    return tuple(found)
