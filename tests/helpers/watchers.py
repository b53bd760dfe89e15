"""Watchers of a region in this process and another, and what they leave in the kernel."""

import contextlib
import os
import sys
import threading
from subprocess import PIPE, Popen

import anyio
import anyio.lowlevel
import anyio.to_thread
from traces import our_descriptors
from waits import until

from shm_async import (
    Region,
)

#: Seconds within which what must happen has happened.
SOON = 10


PEER = """
import asyncio, os, sys
from shm_async import Region

key = sys.argv[1]
region = Region.attach(int(key, 16) if key.startswith("0x") else key)

async def write_async(times):
    for _ in range(times):
        async with region.write_lock() as view:
            view[0] += 1

async def watch():
    changes = region.changes()
    print("watching", flush=True)
    async for generation in changes:
        print(generation, flush=True)

print("ready", flush=True)
for line in sys.stdin:
    word, times = line.split()
    times = int(times)
    if word == "watch":
        asyncio.run(watch())
    elif word == "async":
        asyncio.run(write_async(times))
    for _ in range(times):
        if word == "with":
            with region.write_lock() as view:
                view[0] += 1
        elif word == "transaction":
            with region.transaction() as view:
                view[0] += 1
        elif word == "read":
            with region.read_lock() as view:
                view[0]
    print("done", flush=True)
"""


class Peer:
    """Another process that uses the region."""

    def __init__(self, region: Region) -> None:
        self.process = Popen(
            [sys.executable, "-c", PEER, region.name], stdin=PIPE, stdout=PIPE, text=True
        )
        assert self.hear() == "ready"

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, word: str, times: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word} {times}\n")
        self.process.stdin.flush()

    def do(self, word: str, times: int = 1) -> None:
        self.send(word, times)
        assert self.hear() == "done"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def word(region: Region) -> bool:
    """Whether the control page says that somebody sleeps until something changes."""
    assert region._table.opener is not None
    return bool(region._table.opener.control.watchers & 1)


def instances() -> int:
    return sum("inotify" in target for target in our_descriptors().values())


def waiting(region: Region) -> int:
    """How many tasks wait for a change of the region, in all loops of this process."""
    return sum(len(lookout.waiting) for lookout in region._watchers.lookouts())


def waiting_here(region: Region) -> int:
    """How many of them wait in the loop of this thread."""
    mine = threading.get_ident()
    lookouts = region._watchers.lookouts()
    return sum(len(lookout.waiting) for lookout in lookouts if lookout.thread == mine)


class Watching:
    """A task that waits for one change; `told` is what it got, an exception included."""

    def __init__(self, region: Region, **arguments: int) -> None:
        self.region = region
        self.arguments = arguments
        self.told: list[int | BaseException] = []

    async def run(self) -> None:
        try:
            self.told.append(await self.region.wait_changed(**self.arguments))
        except Exception as error:
            self.told.append(error)

    async def hear(self) -> int | BaseException:
        await until(lambda: bool(self.told))
        return self.told[0]


@contextlib.asynccontextmanager
async def one_who_waits(region: Region, **arguments: int):
    """A task of this loop that waits for a change; another loop may begin to wait meanwhile."""
    before = waiting_here(region)
    async with anyio.create_task_group() as group:
        one = Watching(region, **arguments)
        group.start_soon(one.run)
        await until(lambda: waiting_here(region) > before)
        yield one
        group.cancel_scope.cancel()


async def write_with(region: Region) -> None:
    with region.write_lock():
        pass


def times(region: Region) -> tuple[int, int]:
    found = os.stat(f"/dev/shm/{region.name}")
    return found.st_mtime_ns, found.st_ctime_ns
