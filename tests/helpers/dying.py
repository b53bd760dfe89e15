"""Processes that are killed while they write."""

import os
import signal

import anyio
import anyio.to_thread
import pytest
from rivals import Rival

from shm_async import OwnerDiedError, Region


def writer_dies(region: Region, *, reap: bool = True) -> int:
    """Have another process killed while it writes: its pid.

    It has stored 1 in the first element. Not reaped, it is a zombie.
    """
    pid = os.fork()
    if pid == 0:
        try:
            with region.write_lock() as view:
                view[0] = 1
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    if reap:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def is_sound(region: Region) -> bool:
    """Whether a lock is granted; nobody has it."""
    with Region.attach(region.name) as other:
        try:
            with other.read_lock(timeout=20):
                return True
        except OwnerDiedError:
            return False


async def is_sound_elsewhere(region: Region) -> bool:
    """The same for a task: a thread asks, so that the event loop goes on meanwhile."""
    return await anyio.to_thread.run_sync(is_sound, region)


def a_writer_dies_on_the_way(
    monkeypatch: pytest.MonkeyPatch, where: type, wait: str, region: Region, rival: Rival
) -> list[int]:
    """An upgrade has lost its read lock to the rival's, and is about to wait: a writer is faster.

    It gets in as the rival leaves, and dies inside; its pid is in the list then.
    """
    go_on = getattr(where, wait)
    pids = []

    def instead(*arguments: object) -> object:
        monkeypatch.undo()
        assert rival.do("unlock") == "done"
        pids.append(writer_dies(region))
        return go_on(*arguments)

    monkeypatch.setattr(where, wait, instead)
    return pids


def story(region: Region) -> OwnerDiedError:
    with pytest.raises(OwnerDiedError) as caught:
        region.read_lock().acquire_blocking()
    return caught.value
