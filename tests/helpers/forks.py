"""Children that are forked, by Python or below it, and must do as they are told."""

import asyncio
import ctypes
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable

from waits import wait_until

from shm_async import Region, WouldBlockError


def start_child(work: Callable[[], object], *, fork: Callable[[], int] = os.fork) -> int:
    """Run `work` in a forked child, which ends with status 0 if it returns: its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: this process has threads
        pid = fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it is the test's own time limit's
            signal.alarm(20)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(work: Callable[[], object], *, fork: Callable[[], int] = os.fork) -> None:
    """Run `work` in a forked child and demand that it returns."""
    assert status_of(start_child(work, fork=fork)) == 0


def c_level_fork() -> int:
    """A fork that Python hears nothing of."""
    return ctypes.PyDLL(None).fork()


def aside(work: Callable[[], object]) -> None:
    """Run `work` in a thread of its own: one that is in no event loop."""
    errors = []

    def run_it() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run_it)
    thread.start()
    see_end_of(thread)
    if errors:
        raise errors[0]


def see_end_of(thread: threading.Thread) -> None:
    """Wait until the kernel has ended it, too.

    `join` returns a little before: a fork just then can leave the child a lock of the C library,
    or of a sanitizer, that nobody will ever release.
    """
    thread.join()
    wait_until(lambda: not os.path.exists(f"/proc/self/task/{thread.native_id}"))


def try_both_ways(region: Region) -> list[bool]:
    """Whether a thread and a task can take the write lock at once."""

    async def task() -> bool:
        try:
            region_hold = region.write_lock()
            region_hold.acquire_nowait()
        except WouldBlockError:
            return False
        region_hold.release()
        return True

    try:
        hold = region.write_lock()
        hold.acquire_nowait()
    except WouldBlockError:
        thread = False
    else:
        hold.release()
        thread = True
    return [thread, asyncio.run(task())]


def check(condition: bool) -> None:
    assert condition
