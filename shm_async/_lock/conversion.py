"""Upgrading a reader to a writer in the cohort of an event loop: the part that waits.

A reader that is alone here converts the kernel's lock in place. If another process reads, too,
the kernel takes the lock away, and the reader queues like any writer. With other readers of
this loop inside, it reads on and stands first in the queue until they have left. A second
reader that upgrades releases its lock, or both would wait for each other for ever.
"""

from .._native import BUSY
from .cohort import Cohort
from .loops import Task, Waiter
from .ofd import LET_GO, failure

__all__ = ["upgrade"]


async def upgrade(cohort: Cohort, task: Task) -> bool:
    """Turn a reader into the writer. True: no other writer can have come in between.

    Cancellable: after a cancellation or an error the task holds nothing.
    """
    code = cohort.try_upgrade(task)
    if code == 0:
        return True
    if code == BUSY and not (cohort.queue and cohort.queue[0].upgrading):
        return await _upgrade_in_turn(cohort, task)
    if task in cohort.readers:  # else the kernel's lock is gone, or the descriptor is
        cohort.leave_read(task)
    if code not in (LET_GO, BUSY):
        raise failure(code, cohort.name, cohort.handle)
    await cohort.enter(True, task)
    return False


async def _upgrade_in_turn(cohort: Cohort, task: Task) -> bool:
    """Read on until no other task here reads, at the head of the queue."""
    waiter = cohort.loop.waiter(True, task)
    waiter.upgrading = True
    cohort.tally.contended += 1
    try:
        cohort.queue.appendleft(waiter)
        cohort.set_alarm()
        await waiter.wakeup
    except BaseException:
        cohort.tally.cancelled += 1
        if waiter.granted:
            cohort.leave_write()
        else:
            cohort.withdraw(waiter)
            _stop_reading(cohort, waiter)
        raise
    finally:
        cohort.tally.wait_ended(waiter.since, waiter.label)
    if waiter.error is not None:
        cohort.tally.cancelled += 1
        _stop_reading(cohort, waiter)
        raise waiter.error
    return waiter.upgrading


def _stop_reading(cohort: Cohort, waiter: Waiter) -> None:
    if waiter.upgrading:  # else the kernel has taken its lock away
        cohort.leave_read(waiter.task)
