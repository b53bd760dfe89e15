"""Those who use a region in stress.py: one task or thread each, acting at random.

What each of them does it writes down (history.py).
"""

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
import anyio.lowlevel
from history import QUEUE_SHIFT, Event, Kind, Recorder

from shm_async import (
    Hold,
    Region,
    RegionClosedError,
    WouldBlockError,
)

NEAR, FAR, LENGTH = 0, 1023, 1024  # uint64: the two words lie on two pages
HOLD = 0.001  # seconds: the longest hold
PATIENCE = 0.003  # seconds after which most uses that are cut short are cut
CHILDREN = 100_000  # numbers of a worker's children lie between its own and the next one's
LOOKS = 300  # 1 ms apart, until nothing is held; not a time, as whoever looks may be stopped


@dataclass(frozen=True)
class Settings:
    """What all workers of one run have in common."""

    name: str
    layout: str
    directory: str
    seed: int
    deadline: float  # on time.monotonic: nothing is begun after it
    upgrades: bool
    ended: int  # a pipe that ends when everybody has finished

    def attach(self, *, readonly: bool = False, policy: str = "raise") -> Region:
        return Region.attach(
            self.name,
            LENGTH,
            dtype="uint64" if self.layout == "raw" else None,
            readonly=readonly,
            on_owner_death=repair if policy == "repair" else policy,
        )


def repair(hold: Hold) -> None:
    """What a dead writer had begun counts, and has no other trace but that nobody claims it."""
    assert hold.owner_died
    hold.view[FAR] = hold.view[NEAR]


class Worker:
    """One process."""

    def __init__(self, settings: Settings, number: int, role: int = 0) -> None:
        self.settings = settings
        self.number = number
        self.recorder = Recorder(settings.directory, number, role)
        self.dice = random.Random(f"{settings.seed}/{number}")
        #: What it does about dead writers: hears of them, or repairs what they left.
        self.policy = self.dice.choice(["raise", "repair"])
        self._actors = itertools.count(1)
        self._children = itertools.count(number + 1)
        #: Tasks that whoever runs in the same loop may cancel, by queue.
        self.mates: dict[int, set[asyncio.Task[None]]] = defaultdict(set)

    def attach(self, *, readonly: bool = False) -> Region:
        if readonly:  # a writer that ignores it would hide it from all others
            self.policy = self.dice.choice(["raise", "ignore"])
        return self.settings.attach(readonly=readonly, policy=self.policy)

    def number_of_actor(self, queue: int) -> int:
        return queue << QUEUE_SHIFT | next(self._actors) % (1 << QUEUE_SHIFT)

    def goes_on(self) -> bool:
        return time.monotonic() < self.settings.deadline

    def fork(self, role: int) -> "Worker | int":
        """Fork: a process with a history of its own, in the child; its pid, in the parent."""
        number = next(self._children)
        pid = os.fork()
        if pid:
            return pid
        self.recorder.silence()
        child = Worker(self.settings, number, role)
        child.policy = self.policy  # it inherits the region
        return child


class Actor:
    """One task or thread: its dice, and the words that it reads and writes."""

    def __init__(self, worker: Worker, queue: int = 0) -> None:
        self.worker = worker
        self.recorder = worker.recorder
        self.number = worker.number_of_actor(queue)
        self.dice = random.Random(f"{worker.settings.seed}/{worker.number}/{self.number}")
        self.upgrades = worker.settings.upgrades
        self.downgrades = worker.settings.upgrades
        self.writing = self.dice.choice([0.1, 0.3, 0.7])  # the share of writes
        self.cutting = self.dice.choice([0.0, 0.2, 0.8])  # ... of uses that are cut short

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def moment(self) -> float:
        return self.dice.random() * self.dice.choice([1, 1, 10]) * PATIENCE

    def marked(self, region: Region) -> None:
        """Others can tell from the generation that a writer is inside."""
        with contextlib.suppress(RegionClosedError):
            generation = region.generation
            assert generation is None or generation % 2, "a writer is inside, unmarked"

    def check_told(self, region: Region) -> None:
        """Whoever hears of a death must be one of those who want to."""
        assert self.worker.policy == "raise", f"told of a death in spite of {self.worker.policy}"
        assert region.layout == "managed"

    async def linger(self) -> None:
        """Stay where we are: not at all, for one turn of the loop, or for up to HOLD."""
        match self.dice.randrange(4):
            case 0:
                await anyio.lowlevel.checkpoint()
            case 1 | 2:
                await anyio.sleep(self.dice.random() * HOLD)

    def linger_here(self) -> None:
        match self.dice.randrange(4):
            case 0:
                until = time.monotonic() + self.dice.random() * HOLD / 4
                while time.monotonic() < until:
                    pass
            case 1 | 2:
                time.sleep(self.dice.random() * HOLD)


class Wish:
    """One wish for the lock and what comes of it, written down as it goes."""

    def __init__(self, actor: Actor, kind: int) -> None:
        self.recorder = actor.recorder  # not a forked child's, which leaves our blocks silently
        self.actor = actor.number
        self.kind = kind
        if actor.worker.policy == "repair":
            self.kind |= Kind.APART  # who repairs loses its place in the queue
        elif actor.worker.policy == "ignore":
            self.kind |= Kind.TOLD
        self.number = next(self.recorder.numbers)
        self.came_true = False

    def _note(self, event: Event, near: int = 0, far: int = 0) -> None:
        self.recorder.note(event, self.kind, self.actor, self.number, near, far)

    def __enter__(self) -> "Wish":
        self._note(Event.WANTED)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.came_true:
            self._note(Event.CANCELLED)

    @contextlib.contextmanager
    def inside(self, view: memoryview, *, kept: bool = False, told: bool = False) -> Iterator[None]:
        """Inside the lock: what was found there, the writing, and what was left."""
        writes = self.kind & Kind.WRITE
        self.kind |= (Kind.KEPT if kept else 0) | (Kind.TOLD if told else 0)
        self.came_true = True
        near, far = view[NEAR], view[FAR]
        self._note(Event.ACQUIRED, near, far)
        if writes:
            view[NEAR] = near + 1
        try:
            yield
        finally:
            if not self.recorder.silent:  # else: a fork, and the hold is the parent's
                if writes:
                    view[FAR] = near + 1
                self._note(Event.RELEASED, view[NEAR], view[FAR])


def upgrade_nowait(actor: Actor, hold: Hold) -> bool | None:
    """What `upgrade` returns, or None where it would have to wait."""
    try:
        hold.upgrade_nowait()
        return True
    except WouldBlockError as error:
        if error.still_held:
            with Wish(actor, Kind.CONVERTED) as wish, wish.inside(hold.view, kept=True):
                pass
        return None
