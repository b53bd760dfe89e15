"""A writer behind readers that never pause: 2 processes with 8 readers each, 1 ms a hold.

Prints how long the writer waited, and what the writer costs the readers.

    python benchmarks/flood.py [--seconds S]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import anyio

from shm_async import Region

PROCESSES, READERS, HOLD = 2, 8, 0.001


async def read_for_ever(region: Region, number: int) -> None:
    """Count reads in the region's element `number`, which this process alone writes."""
    count = 0

    async def read() -> None:
        nonlocal count
        while True:
            async with region.read_lock():
                await anyio.sleep(HOLD)
                count += 1
                region.buffer[number] = count

    async with anyio.create_task_group() as group:
        for _ in range(READERS):
            group.start_soon(read)


def reads(region: Region) -> int:
    return sum(region.buffer[1 : 1 + PROCESSES])


def write_for(region: Region, seconds: float) -> list[float]:
    """Seconds that each write lock took to get."""
    waits = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        with region.write_lock(timeout=30) as view:
            view[0] += 1
        waits.append(time.perf_counter() - start)
        time.sleep(0.02)
    return waits


def measure(region: Region, seconds: float) -> None:
    time.sleep(1)  # all are there
    start = reads(region)
    time.sleep(seconds)
    alone = reads(region) - start
    start = reads(region)
    waits = write_for(region, seconds)
    together = reads(region) - start
    p99 = statistics.quantiles(waits, n=100)[98]
    print(
        f"{len(waits)} writes: median {statistics.median(waits) * 1e3:.1f} ms, "
        f"p99 {p99 * 1e3:.1f} ms, longest {max(waits) * 1e3:.1f} ms"
    )
    print(
        f"readers: {alone / seconds:.0f} holds a second alone, "
        f"{together / seconds:.0f} with the writer: {together / alone:.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--reader", nargs=2, metavar=("NAME", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        with Region.attach(options.reader[0]) as region:
            anyio.run(read_for_ever, region, int(options.reader[1]))
        return
    with Region.create(f"bench-flood-{os.getpid()}", 1 + PROCESSES, dtype="uint64") as region:
        command = [sys.executable, __file__, "--reader", region.name]
        readers = [subprocess.Popen([*command, str(n)]) for n in range(1, 1 + PROCESSES)]
        try:
            measure(region, options.seconds)
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
            region.unlink()


if __name__ == "__main__":
    main()
