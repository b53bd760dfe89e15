"""The queue of each event loop of a region, seen from inside."""

import os

from rivals import blocked_in_flock
from waits import until

from shm_async import Region


async def until_blocked() -> None:
    """Until the waiting thread stands in the kernel's queue."""
    await until(lambda: blocked_in_flock(os.getpid()))


def queued(region: Region) -> int:
    """How many tasks stand in the region's queues."""
    return sum(len(cohort.queue) for cohort in region._table.cohorts.values())


def asking(region: Region) -> bool:
    """Whether a request to the kernel is under way."""
    return any(cohort.request.under_way for cohort in region._table.cohorts.values())


def idle(region: Region) -> bool:
    return all(cohort.idle for cohort in region._table.cohorts.values())
