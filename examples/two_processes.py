"""Two processes talk through a page of shared memory, one message at a time.

    python examples/two_processes.py

The script starts itself a second time. Who has something to say writes it under the
write lock, who listens reads it under the read lock. At the end one of them waits for
an answer that never comes, and gives up.
"""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from shm_async import Region

SPEAKER = 0  # the byte that says who spoke last: 1 or 2; 0 is nobody yet
TEXT = slice(1, None)  # the bytes behind it: what was said, filled up with NULs

PATIENCE = 10.0  # seconds


async def say(region: Region, me: int, text: str) -> None:
    async with region.write_lock() as view:
        view[SPEAKER] = me
        room = view[TEXT]
        room[:] = text.encode().ljust(len(room), b"\0")
        print(f"process {me} (pid {os.getpid()}) says:  {text}", flush=True)


async def listen(region: Region, me: int) -> str:
    """Wait until the other one has spoken. Cancelling it is fine at any point."""
    while True:
        async with region.read_lock() as view:
            if view[SPEAKER] not in (0, me):
                text = bytes(view[TEXT]).rstrip(b"\0").decode()
                print(f"process {me} (pid {os.getpid()}) hears: {text}", flush=True)
                return text
        await asyncio.sleep(0.005)


async def first(region: Region) -> None:
    async with second_process(region) as process:
        await say(region, 1, "Anybody there?")
        await asyncio.wait_for(listen(region, 1), PATIENCE)
        await say(region, 1, "One page of memory is all we share. Good bye!")
        await asyncio.wait_for(listen(region, 1), PATIENCE)
        await process.wait()
        await say(region, 1, "Are you still there?")
        try:
            await asyncio.wait_for(listen(region, 1), timeout=0.2)
        except asyncio.TimeoutError:
            print("process 1 gives up: no answer within 0.2 s")


async def second(region: Region) -> None:
    await asyncio.wait_for(listen(region, 2), PATIENCE)
    await say(region, 2, "Here I am, in a process of my own.")
    await asyncio.wait_for(listen(region, 2), PATIENCE)
    await say(region, 2, "Good bye!")


@asynccontextmanager
async def second_process(region: Region) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        region.name,
        start_new_session=True,  # Ctrl-C is for us alone
    )
    try:
        yield process
    finally:
        if process.returncode is None:  # something went wrong
            process.kill()
            await process.wait()


@contextmanager
def fresh_region() -> Iterator[Region]:
    """A new region that is gone afterwards, whatever happens."""
    with Region.create(f"two-processes-{os.getpid()}", 4096) as region:
        try:
            yield region
        finally:
            region.unlink()


def main() -> None:
    if len(sys.argv) > 1:
        with Region.attach(sys.argv[1]) as region:
            asyncio.run(second(region))
    else:
        with fresh_region() as region:
            asyncio.run(first(region))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
