"""The regions of this process that are attached to one object, and the locks that they hold.

Before a caller waits, it checks whether it would wait for itself, or may read beside a lock of
its own. A free lock needs no check.
"""

from threading import get_ident
from weakref import WeakValueDictionary

from .._forks import undivided
from .cohort import Cohort
from .contract import Namesakes, Table
from .greenlets import sleep_is_shared
from .loops import Task
from .ofd import Opener
from .owners import owner_of
from .seat import Seat

__all__ = [
    "forget_finished_loops",
    "may_read_here",
    "namesakes",
    "of",
    "others_read_loosely",
    "reads_here",
    "reads_loosely",
    "refuse_task_to_wait_for_itself",
    "refuse_to_wait_for_oneself",
    "task_may_read",
    "task_reads_elsewhere",
    "thread_reads",
]

_by_path: WeakValueDictionary[str, Namesakes] = WeakValueDictionary()  # their tables keep them


def namesakes(table: Table, opener: Opener) -> Namesakes:
    """Remember the table, for as long as it lives, among those at the path of its object."""
    path = opener.segment.path()
    with undivided:  # two threads must not make two Namesakes of one path
        found = _by_path.get(path)
        if found is None:
            found = _by_path[path] = Namesakes()
        found.add(table)
    return found


def of(table: Table) -> list[Table]:
    """Return that table, and all others of this process that lock the same object."""
    if table.namesakes.alone():
        return [table]
    identity = _identity(table)
    return [
        each
        for each in table.namesakes.tables()
        if each is table or (identity is not None and _identity(each) == identity)
    ]


def others(table: Table) -> list[Table]:
    """Return all tables but that one of this process that lock the same object."""
    return [] if table.namesakes.alone() else [each for each in of(table) if each is not table]


def _identity(table: Table) -> tuple[int, int] | None:
    opener = table.opener
    return None if opener is None else opener.segment.lock_identity()


# ---- the locks that they hold ------------------------------------------------------


def forget_finished_loops(table: Table) -> None:
    """Forget finished loops in all regions of the object, so that nothing keeps them alive."""
    for each in of(table):
        each.forget_finished_loops()


def may_read_here(table: Table) -> bool:
    """Tell whether this thread, or its event loop, may own a lock that a reader may share."""
    here = get_ident()
    return any(
        each.pool.may_read_here()
        or any(cohort.thread == here and cohort.readers for cohort in list(each.cohorts.values()))
        for each in of(table)
    )


def reads_loosely(table: Table, late: bool) -> bool:
    """Tell whether a waiting reader (for long, if `late`) may own a lock for reading.

    Another thread, which goes on, may have handed a lock to it. That is assumed only after a
    long wait, as else readers would overtake a writer. See owners.py.
    """
    return may_read_here(table) or (late and any(each.pool.reads_loosely() for each in of(table)))


def task_may_read(table: Table, cohort: Cohort, key: Task) -> bool:
    """Tell whether that task may own a lock that it may share, outside of its own cohort."""
    task, native = owner_of(key), cohort.native
    return any(
        each.pool.task_may_read(task)
        or (native in each.cohorts and each.cohorts[native].may_read_already(task))
        for each in of(table)
    )


def others_read_loosely(table: Table, cohort: Cohort) -> bool:
    """Tell whether a lock for reading, not of this cohort, may have been handed to any task."""
    native = cohort.native
    return any(
        each.pool.reads_loosely()
        or (each is not table and native in each.cohorts and each.cohorts[native].is_loose())
        for each in of(table)
    )


def task_reads_elsewhere(table: Table, cohort: Cohort, task: Task) -> bool:
    """Tell whether a block of that task reads in another cohort than that one."""
    others = [each.cohorts.get(cohort.native) for each in of(table)]
    return any(
        other is not None and other is not cohort and task in other.readers for other in others
    )


def thread_reads(table: Table) -> bool:
    """Tell whether a ``with`` block of this thread, or of a task that it runs, reads."""
    return any(each.pool.reads_here() for each in of(table))


def reads_here(table: Table, but: Seat | None = None) -> bool:
    """Tell whether a block of this thread, or its event loop, reads on another seat than `but`."""
    here = get_ident()
    return any(
        each.pool.reads_here(but)
        or any(cohort.thread == here and cohort.readers for cohort in list(each.cohorts.values()))
        for each in of(table)
    )


def refuse_to_wait_for_oneself(table: Table, exclusive: bool) -> None:
    """Raise RuntimeError if this thread, which is about to block, holds the lock."""
    if sleep_is_shared():
        return  # another greenlet of this thread may have it, and release it meanwhile
    here = get_ident()
    for each in of(table):
        if each.pool.held_here(exclusive_only=not exclusive):
            holder = "this thread holds"
        elif any(
            cohort.thread == here and cohort.conflicts(exclusive)
            for cohort in list(each.cohorts.values())
        ):
            holder = "a task of this thread's event loop holds"
        else:
            continue
        raise RuntimeError(
            f"{holder} a lock of region {table.name!r}, and blocking the thread would wait "
            "for it for ever: release it first, use upgrade_blocking() to write after "
            "reading, or use `async with`"
        )


def refuse_task_to_wait_for_itself(
    table: Table, cohort: Cohort, exclusive: bool, key: Task
) -> None:
    """Raise RuntimeError if that task holds the lock through another Region of the object."""
    for each in others(table):
        other = each.cohorts.get(cohort.native)
        if other is not None:
            other.refuse_to_wait_for_oneself(exclusive, owner_of(key))
