"""Processes that are killed at random moments: not one acknowledged write is lost."""

import os
import random
import select
import sys
import time
from subprocess import PIPE, Popen

import pytest

from shm_async import Region

pytestmark = [pytest.mark.once, pytest.mark.long]

WORKERS = 3

#: How many are killed, over all; `make stress` asks for more.
KILLS = int(os.environ.get("TEST_KILLS", "30"))

#: Counts in element 0 together with the others, and in one of its own; acknowledges each count.
WORKER = """
import asyncio, os, sys
from shm_async import Region
name, me, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def repair(hold):
    hold.view[0] = sum(hold.view[1:])

region = Region.attach(name, on_owner_death=repair)

def count(view):
    view[me] += 1
    view[0] += 1

async def tasks():
    while True:
        async with region.write_lock() as view:
            count(view)
        os.write(1, b"+")

def threads():
    while True:
        with region.write_lock() as view:
            count(view)
        os.write(1, b"+")

async def transactions():
    while True:
        async with region.transaction() as view:
            count(view)
        os.write(1, b"+")

if way == "threads":
    threads()
else:
    asyncio.run({"tasks": tasks, "transactions": transactions}[way]())
"""


class Worker:
    """One that counts at its own place in the region; what it acknowledged is counted here."""

    def __init__(self, name: str, place: int, way: str) -> None:
        self.acknowledged = 0
        self.process = Popen(
            [sys.executable, "-c", WORKER, name, str(place), way], stdout=PIPE, bufsize=0
        )

    def hear(self) -> None:
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 65536)
        assert data, "it has died by itself"
        self.acknowledged += len(data)

    def kill(self) -> None:
        """Kill it, and hear all that it said before."""
        self.process.kill()
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.acknowledged += len(data)
        self.process.wait()
        self.process.stdout.close()


def run_for(workers: list[Worker], seconds: float) -> None:
    """Hear what they acknowledge, for that long after each of them has done something."""
    by_fd = {worker.process.stdout.fileno(): worker for worker in workers}
    until = None
    while until is None or time.monotonic() < until:
        for fd in select.select(list(by_fd), [], [], seconds)[0]:
            by_fd[fd].hear()
        if until is None and all(worker.acknowledged for worker in workers):
            until = time.monotonic() + seconds


@pytest.mark.parametrize("way", ["tasks", "threads", "transactions"])
def test_every_acknowledged_write_is_there_and_no_more_than_one_that_is_not(name: str, way: str):
    kills = KILLS // 3
    seed = random.randrange(10**6)
    print("seed", seed)
    dice = random.Random(seed)
    with Region.create(name, kills + 1, dtype="uint64", unlink="creator") as region:
        places = iter(range(1, kills + 1))
        alive = [Worker(name, place, way) for place in (next(places) for _ in range(WORKERS))]
        acknowledged = {}
        place_of = dict(zip(alive, range(1, WORKERS + 1), strict=True))
        while alive:
            run_for(alive, dice.random() * 0.03)
            victim = alive.pop(dice.randrange(len(alive)))
            victim.kill()
            acknowledged[place_of[victim]] = victim.acknowledged
            if (place := next(places, None)) is not None:
                alive.append(Worker(name, place, way))
                place_of[alive[-1]] = place
        with region.write_lock(recover=True) as view:
            counted = list(view)
    assert sum(acknowledged.values()) > kills, "they hardly did anything"
    for place, heard in acknowledged.items():
        # killed between its write and its word, or in the middle of the write
        assert counted[place] in (heard, heard + 1), f"place {place}, seed {seed}"
    assert counted[0] - sum(counted[1:]) in (0, -1), "only the very last one may be half-done"
