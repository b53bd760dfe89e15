"""Many coroutines in each of two processes, all after the same write lock, 20 µs a hold.

python benchmarks/crowd.py [--coroutines N] [--seconds S] [--loop asyncio|uvloop|trio]
"""

import argparse
import os
import subprocess
import sys
import time

import anyio

from shm_async import Region

PROCESSES, HOLD = 2, 20e-6


async def crowd(region: Region, coroutines: int, seconds: float) -> None:
    """Print holds, extra threads and the spread between coroutines, as one line."""
    counts = [0] * coroutines
    threads = 0
    end = float("inf")

    async def one(number: int) -> None:
        while time.monotonic() < end:
            async with region.write_lock():
                until = time.perf_counter() + HOLD
                while time.perf_counter() < until:
                    pass
                counts[number] += 1

    async def watch() -> None:
        nonlocal end, threads
        print("ready", flush=True)  # all coroutines are queued: who starts us lets go
        async with region.read_lock():  # behind all of them
            end = time.monotonic() + seconds
        await anyio.sleep(seconds / 2)
        threads = len(os.listdir("/proc/self/task")) - 1

    async with anyio.create_task_group() as group:
        for number in range(coroutines):
            group.start_soon(one, number)
        await anyio.sleep(0.1)
        group.start_soon(watch)
    print(sum(counts), threads, max(counts) - min(counts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--coroutines", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop", "trio"])
    parser.add_argument("--member", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        with Region.attach(options.member) as region:
            anyio.run(
                crowd,
                region,
                options.coroutines,
                options.seconds,
                backend="trio" if options.loop == "trio" else "asyncio",
                backend_options={"use_uvloop": True} if options.loop == "uvloop" else {},
            )
        return
    with Region.create(f"bench-crowd-{os.getpid()}", 1) as region:
        command = [sys.executable, __file__, "--member", region.name, "--loop", options.loop]
        command += ["--coroutines", str(options.coroutines), "--seconds", str(options.seconds)]
        with region.write_lock():
            members = [
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                for _ in range(PROCESSES)
            ]
            for member in members:
                assert member.stdout is not None
                assert member.stdout.readline() == "ready\n"
        facts = [[int(word) for word in member.communicate()[0].split()] for member in members]
        region.unlink()
    holds = [each[0] for each in facts]
    print(
        f"{options.coroutines} coroutines x {PROCESSES} processes on {options.loop}: "
        f"{sum(holds) / options.seconds:.0f} holds a second, "
        f"smaller share {min(holds) / sum(holds):.2f}, "
        f"coroutines within {max(each[2] for each in facts)} holds, "
        f"{max(each[1] for each in facts)} extra thread"
    )


if __name__ == "__main__":
    main()
