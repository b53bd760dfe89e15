"""How soon a coroutine goes on after its wait for the lock was cancelled.

A second region of this process holds the lock; waits are cancelled at random moments,
so that signals also come just before the waiting thread's system call.

    python benchmarks/cancel.py [--cancels N]
"""

import argparse
import asyncio
import os
import random
import statistics
import time

from shm_async import Region


async def one_cancel(region: Region, patience: float) -> float:
    """Seconds from cancel() until the coroutine runs on."""
    ended = 0.0

    async def wait() -> None:
        nonlocal ended
        try:
            async with region.write_lock():
                raise AssertionError("the lock was not free")
        finally:
            ended = time.perf_counter()

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(patience)
    start = time.perf_counter()
    task.cancel()
    await asyncio.wait([task])
    return ended - start


async def measure(region: Region, cancels: int) -> list[float]:
    generator = random.Random(1)
    with Region.attach(region.name) as holder:
        async with holder.read_lock():
            times = [
                await one_cancel(region, generator.choice([0, 0, generator.random() / 1000]))
                for _ in range(cancels)
            ]
        start = time.perf_counter()
        async with region.write_lock():
            print(f"free again: taken within {(time.perf_counter() - start) * 1e6:.0f} µs")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cancels", type=int, default=20_000)
    cancels = parser.parse_args().cancels
    with Region.create(f"bench-cancel-{os.getpid()}", 1) as region:
        try:
            times = asyncio.run(measure(region, cancels))
        finally:
            region.unlink()
    p99 = statistics.quantiles(times, n=100)[98]
    print(
        f"{cancels} cancels: median {statistics.median(times) * 1e6:.0f} µs, "
        f"p99 {p99 * 1e6:.0f} µs, longest {max(times) * 1e6:.0f} µs"
    )


if __name__ == "__main__":
    main()
