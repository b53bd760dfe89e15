"""What the apps of this directory share: where the region is, and what is counted in it.

Every increment is booked twice, so that a worker can be killed half way. Between reading and
writing others get their chance: without the lock increments would be lost.
"""

import os
import signal

from shm_async import Hold, Region

COUNT, BOOKED = 0, 1  # elements of the region
MEANWHILE = 0.0005  # seconds


def attach() -> Region:
    # a server that begins as root and becomes another user names that one: else its workers
    # could not open the region for their locks
    user = os.environ.get("COUNTING_USER")
    return Region.open(
        os.environ["COUNTING_REGION"], 2, dtype="uint64", user=user, on_owner_death=repair
    )


def perhaps_die(path: object) -> None:
    """Have this worker killed, half way, if that is what was asked for."""
    if path == "/die":
        os.kill(os.getpid(), signal.SIGKILL)


def repair(hold: Hold) -> None:
    """Finish what a killed worker had begun; its client never heard of it."""
    hold.view[BOOKED] = hold.view[COUNT]
