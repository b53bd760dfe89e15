"""One progress bar for all workers of a pool, which survives a worker: multiprocessing and rich.

    make example NAME=progress

Two thousand items are worked off by four processes. A worker that is killed, as by a lack of
memory, breaks the pool; the region still says what is done, so a new pool does just the rest.

Use it when results, or only the progress, must be seen while a pool works, and must not be lost
with it. Do not use it for results that are Python objects: a pool returns those by itself.
"""

import os
import random
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shm_async import Region

ITEMS = 2000
CHUNK = 20  # items for a call of a worker: few, so that a kill costs little
WORKERS = 4
SUM = 0  # of all results
DONE = slice(1, 1 + ITEMS)  # 1 for each item that is in the sum


def work(item: int) -> int:
    time.sleep(random.uniform(0, 0.01))
    return item * item


def work_off(region: Region, items: list[int]) -> None:
    """Run in a worker. The region came as an argument: it is pickled as its name."""
    with region:
        for item in items:
            result = work(item)
            # all of it or nothing: a kill never leaves an item that is done and not in the sum
            with region.transaction() as view:
                view[SUM] += result
                view[DONE][item] = 1


def remaining(region: Region) -> list[int]:
    done = memoryview(region.snapshot()).cast("q")[DONE]  # no lock, and never a torn copy
    return [item for item in range(ITEMS) if not done[item]]


def run_pool(region: Region, progress: Progress) -> bool:
    """Give all that is left to a new pool. Returns whether it got through."""
    left = remaining(region)
    chunks = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
    bar = progress.task_ids[0]
    try:
        # "spawn": a fresh interpreter, where a fork would copy the threads' locks of this one
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            pending = {pool.submit(work_off, region, chunk) for chunk in chunks}
            while pending:
                finished, pending = wait(pending, timeout=0.1)
                progress.update(bar, completed=ITEMS - len(remaining(region)))
                for future in finished:
                    future.result()  # raises what went wrong in the worker
    except BrokenProcessPool:
        return False
    return True


def run(region: Region) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        progress.add_task("items", total=ITEMS)
        while remaining(region):
            if not run_pool(region, progress):
                progress.console.print(f"a worker died; {len(remaining(region))} items are left")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    name = f"progress-{os.getpid()}"
    # a transaction is of one piece but for a kill within its memcpy, of which "raise" tells
    with Region.create(name, 1 + ITEMS, dtype="int64", unlink="creator") as region:
        run(region)
        with region.read_lock() as view:
            total = view[SUM]
    exact = total == sum(item * item for item in range(ITEMS))
    print(f"{ITEMS} items, sum {total}: {'EXACT' if exact else 'NOT EXACT'}")
    return 0 if exact else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
