"""What other processes are sent to do with a region: functions that a pickle can name."""

import os
import signal

from shm_async import Region

ROUNDS = 100


def add(region: Region) -> int:
    """Add 1 to the first element, ROUNDS times: this process's id."""
    with region:
        for _ in range(ROUNDS):
            with region.write_lock() as view:
                view[0] += 1
    return os.getpid()


def facts(region: Region) -> tuple[object, ...]:
    """All that an attachment has of its own."""
    with region:
        return (region.name, region.key, region.dtype, region.shape, region.layout, region.readonly)


def die_writing(region: Region) -> None:
    with region.write_lock() as view:
        view[1] = 1
        os.kill(os.getpid(), signal.SIGKILL)


def repair(hold: object) -> None:
    """An `on_owner_death` that can be pickled, as it has a module and a name."""
    hold.view[1] = 7
