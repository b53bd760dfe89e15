"""No event loop: threads and a second script count together, with a plain `with`.

    python examples/threads_and_scripts.py

Four threads and a child process add to the same two counters. Then a thread asks for
the lock while another one has it, with a timeout, and does not get it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from shm_async import LockTimeoutError, Region

THREADS = 4
TIMES = 2000  # increments of each thread, and of the child

TOTAL = 0  # of everybody
BY_THE_CHILD = 1


def count(region: Region, *counters: int) -> None:
    """Read, let others run, write: without the lock, increments would get lost."""
    for _ in range(TIMES):
        with region.write_lock(timeout=30) as view:
            seen = view.tolist()
            time.sleep(0)
            for counter in counters:
                view[counter] = seen[counter] + 1


def count_together(region: Region) -> bool:
    """Returns whether the result is exact."""
    command = [sys.executable, __file__, region.name]
    child = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is for us alone
    with child, ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(count, region, TOTAL) for _ in range(THREADS)]
    for future in futures:
        future.result()  # raises what went wrong in the thread
    with region.read_lock() as view:
        total, by_the_child = view.tolist()
    expected = (THREADS + 1) * TIMES
    exact = total == expected and by_the_child == TIMES
    print(f"{THREADS} threads and a child process, {TIMES} increments each:")
    print(f"{total} in total, {by_the_child} by the child: {'EXACT' if exact else 'NOT EXACT'}")
    return exact


def wait_in_vain(region: Region) -> None:
    print("a thread asks for the lock while another one has it:")
    with ThreadPoolExecutor(1) as pool, region.write_lock():
        pool.submit(ask_for_the_lock, region).result()


def ask_for_the_lock(region: Region) -> None:
    try:
        with region.write_lock(timeout=0.1) as view:
            view[TOTAL] = 0
    except LockTimeoutError as error:
        print(f"LockTimeoutError: {error}")


@contextmanager
def fresh_region() -> Iterator[Region]:
    """A new region that is gone afterwards, whatever happens."""
    name = f"threads-and-scripts-{os.getpid()}"
    with Region.create(name, 2, dtype="uint64") as region:
        try:
            yield region
        finally:
            region.unlink()


def main() -> int:
    if len(sys.argv) > 1:  # the child
        with Region.attach(sys.argv[1]) as region:
            count(region, TOTAL, BY_THE_CHILD)
        return 0
    with fresh_region() as region:
        exact = count_together(region)
        wait_in_vain(region)
    return 0 if exact else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
