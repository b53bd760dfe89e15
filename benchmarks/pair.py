"""What an uncontended lock costs, as a multiple of one raw fcntl.flock pair.

All variants run interleaved, in rounds, in one process: machines are noisy, ratios are not.

    python benchmarks/pair.py [--rounds N]
"""

import argparse
import asyncio
import fcntl
import os
import statistics
import time
from collections.abc import Awaitable, Callable

from shm_async import Region

PAIRS = 2000  # acquire + release, per round and variant


async def raw(region: Region, fd: int) -> None:
    for _ in range(PAIRS):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)


async def async_write(region: Region, fd: int) -> None:
    for _ in range(PAIRS):
        async with region.write_lock():
            pass


async def async_read(region: Region, fd: int) -> None:
    for _ in range(PAIRS):
        async with region.read_lock():
            pass


async def second_reader(region: Region, fd: int) -> None:
    hold = region.read_lock()
    await hold.acquire()
    for _ in range(PAIRS):
        async with region.read_lock():
            pass
    hold.release()


async def sync_write(region: Region, fd: int) -> None:
    for _ in range(PAIRS):
        with region.write_lock():
            pass


async def sync_read(region: Region, fd: int) -> None:
    for _ in range(PAIRS):
        with region.read_lock():
            pass


VARIANTS: dict[str, Callable[[Region, int], Awaitable[None]]] = {
    "raw fcntl.flock pair": raw,
    "async with write_lock()": async_write,
    "async with read_lock()": async_read,
    "async with read_lock(), second reader": second_reader,
    "with write_lock()": sync_write,
    "with read_lock()": sync_read,
}


async def measure(region: Region, fd: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            start = time.perf_counter()
            await variant(region, fd)
            times[name].append((time.perf_counter() - start) / PAIRS)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="rounds of %(default)s")
    rounds = parser.parse_args().rounds
    with Region.create(f"bench-pair-{os.getpid()}", 64) as region:
        fd = os.open(f"/dev/shm/{region.name}", os.O_RDWR | os.O_CLOEXEC)
        try:
            times = asyncio.run(measure(region, fd, rounds))
        finally:
            os.close(fd)
            region.unlink()
    base = times["raw fcntl.flock pair"]
    print(f"{'':40}{'median µs':>10}{'p99 µs':>10}{'x raw':>8}")
    for name, values in times.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        p99 = statistics.quantiles(values, n=100)[98]
        print(f"{name:40}{statistics.median(values) * 1e6:10.2f}{p99 * 1e6:10.2f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
