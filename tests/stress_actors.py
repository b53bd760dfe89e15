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
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import anyio
import anyio.lowlevel
from history import QUEUE_SHIFT, Event, Kind, Recorder
from stress_kernel import flock_rows

from shm_async import (
    Hold,
    LockTimeoutError,
    OwnerDiedError,
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


# ---- tasks ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def held(hold: Hold, way: int) -> AsyncIterator[memoryview]:
    """Hold the lock in one of the ways that there are."""
    if way:
        async with hold as view:
            yield view
    else:
        view = await hold.acquire()
        try:
            yield view
        finally:
            hold.release()


class TaskActor(Actor):
    """A coroutine, in any event loop."""

    async def use(self, region: Region) -> None:
        """One use of the region, which may end in any way that it can."""
        with contextlib.suppress(WouldBlockError):
            try:
                if region.readonly or not self.chance(self.writing):
                    await self.read(region)
                else:
                    await self.write(region, recover=self.chance(0.2))
            except OwnerDiedError:
                self.check_told(region)
                if not region.readonly:
                    await self.write(region, recover=True)

    async def read(self, region: Region, depth: int = 0) -> None:
        fast = self.chance(0.9)  # else it yields before it queues
        with Wish(self, Kind.READ if fast and not depth else Kind.APART) as wish:
            hold = region.read_lock(fast_acquire=fast)
            converts = not depth and not region.readonly and self.upgrades and self.chance(0.2)
            async with held(hold, converts or self.dice.randrange(2)) as view:
                with wish.inside(view):
                    await self.linger()
                    if not converts:
                        await self._inside_read(region, depth)
                if converts:
                    await self._upgrade(hold)

    async def _inside_read(self, region: Region, depth: int) -> None:
        if depth < 2 and self.chance(0.15):
            await self.read(region, depth + 1)
        if not depth and not region.readonly and self.chance(0.02):
            await self._wait_for_oneself(region)

    async def _wait_for_oneself(self, region: Region) -> None:
        try:
            async with region.write_lock():
                raise AssertionError("a task writes where it reads")
        except RuntimeError:
            self.recorder.note(Event.REFUSED)

    async def write(self, region: Region, *, recover: bool) -> None:
        with Wish(self, Kind.WRITE) as wish:
            hold = region.write_lock(recover=recover)
            converts = self.downgrades and self.chance(0.2)
            if not converts and self.chance(0.1):
                view = hold.acquire_nowait()
                try:
                    with wish.inside(view, told=hold.owner_died):
                        await self.linger()
                        self.marked(region)
                finally:
                    hold.release()
                return
            async with held(hold, converts or self.dice.randrange(2)) as view:
                with wish.inside(view, told=hold.owner_died):
                    await self.linger()
                    self.marked(region)
                if converts:
                    await self._downgrade(hold)

    async def _upgrade(self, hold: Hold) -> None:
        with Wish(self, Kind.WRITE | Kind.CONVERTED) as wish:
            if self.chance(0.3):
                kept = upgrade_nowait(self, hold)
            else:
                kept = await hold.upgrade()
            if kept is None:
                return
            with wish.inside(hold.view, kept=kept):
                await self.linger()
        if self.downgrades and self.chance(0.3):
            await self._downgrade(hold)

    async def _downgrade(self, hold: Hold) -> None:
        with Wish(self, Kind.CONVERTED) as wish:
            hold.downgrade()
            assert hold.view.readonly, "a reader's view is writable"
            with wish.inside(hold.view, kept=True):
                await self.linger()

    async def work(self, region: Region, *, alone: bool = False) -> None:
        """Use the region until the deadline, cutting some of the uses short.

        Who is `alone` in its process looks whether anything is held after it gave up.
        """
        while self.worker.goes_on():
            if self.chance(self.cutting):
                await self._cut_short(region)
                if alone:
                    await self._nothing_is_held()
            else:
                await self.use(region)
            await self.linger()

    async def _cut_short(self, region: Region) -> None:
        """Cancel a use from the outside or by a deadline, at a moment of chance."""
        if self.chance(0.3):
            with anyio.move_on_after(self.moment()):
                await self.use(region)
            return
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await anyio.sleep(self.moment())
                self.dawdle()
                group.cancel_scope.cancel()

            group.start_soon(cancel)
            await self.use(region)
            group.cancel_scope.cancel()

    def dawdle(self) -> None:
        """Keep the loop busy for a while: what is granted meanwhile it does not see."""
        if self.chance(0.3):
            time.sleep(self.dice.random() * 2 * HOLD)

    async def _nothing_is_held(self) -> None:
        """The cancelled request is called off at once, give or take a busy machine."""
        for _ in range(LOOKS):
            if not flock_rows():
                return
            await anyio.sleep(0.001)
        raise AssertionError(f"gave up, and still there is {flock_rows()}")


class AsyncioActor(TaskActor):
    """A coroutine in asyncio's kind of loop, which cancels tasks in its own way, too."""

    def __init__(self, worker: Worker, queue: int = 0) -> None:
        super().__init__(worker, queue)
        self.mates = worker.mates[queue]

    async def use(self, region: Region) -> None:
        """Use it, and sometimes cancel a mate right after it was granted what we let go."""
        await super().use(region)
        if self.mates and self.chance(0.2):
            self.dice.choice(list(self.mates)).cancel()

    async def _cut_short(self, region: Region) -> None:
        """Anyio never cancels a task that has been woken; asyncio does."""
        if self.chance(0.3):
            await super()._cut_short(region)
            return
        task = asyncio.create_task(self.use(region))

        def cancel() -> None:
            self.dawdle()
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self.moment(), cancel)
        self.mates.add(task)
        await asyncio.wait({task})
        self.mates.remove(task)
        timer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            task.result()


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


# ---- threads -------------------------------------------------------------------------------


@contextlib.contextmanager
def held_here(hold: Hold, way: int, timeout: float | None) -> Iterator[memoryview]:
    if way:
        with hold as view:
            yield view
    else:
        view = hold.acquire_blocking(timeout)
        try:
            yield view
        finally:
            hold.release()


class ThreadActor(Actor):
    """A thread, which blocks."""

    def use(self, region: Region) -> None:
        with contextlib.suppress(LockTimeoutError, WouldBlockError):
            try:
                if region.readonly or not self.chance(self.writing):
                    self.read(region)
                else:
                    self.write(region, recover=self.chance(0.2))
            except OwnerDiedError:
                self.check_told(region)
                if not region.readonly:
                    self.write(region, recover=True)

    def read(self, region: Region, depth: int = 0) -> None:
        timeout = self.moment() if self.chance(0.3) else None
        with Wish(self, Kind.APART if depth else Kind.READ) as wish:
            hold = region.read_lock(timeout=timeout)
            converts = not depth and not region.readonly and self.upgrades and self.chance(0.2)
            with held_here(hold, converts or self.dice.randrange(2), None) as view:
                with wish.inside(view):
                    self.linger_here()
                    if not converts:
                        self._inside_read(region, depth)
                if converts:
                    self._upgrade(hold)

    def _inside_read(self, region: Region, depth: int) -> None:
        if depth < 2 and self.chance(0.15):
            self.read(region, depth + 1)
        if not depth and not region.readonly and self.chance(0.02):
            self._wait_for_oneself(region)

    def _wait_for_oneself(self, region: Region) -> None:
        try:
            with region.write_lock():
                raise AssertionError("a thread writes where it reads")
        except RuntimeError:
            self.recorder.note(Event.REFUSED)

    def write(self, region: Region, *, recover: bool) -> None:
        timeout = self.moment() if self.chance(0.3) else None
        with Wish(self, Kind.WRITE) as wish:
            converts = self.downgrades and self.chance(0.2)
            way = converts or self.dice.randrange(2)
            hold = region.write_lock(timeout=timeout if way else None, recover=recover)
            with held_here(hold, way, timeout) as view:
                with wish.inside(view, told=hold.owner_died):
                    self.linger_here()
                    self.marked(region)
                if converts:
                    self._downgrade(hold)

    def _upgrade(self, hold: Hold) -> None:
        with Wish(self, Kind.WRITE | Kind.CONVERTED) as wish:
            if self.chance(0.3):
                kept = upgrade_nowait(self, hold)
            else:
                kept = hold.upgrade_blocking(self.moment() if self.chance(0.3) else None)
            if kept is None:
                return
            with wish.inside(hold.view, kept=kept):
                self.linger_here()
        if self.downgrades and self.chance(0.3):
            self._downgrade(hold)

    def _downgrade(self, hold: Hold) -> None:
        with Wish(self, Kind.CONVERTED) as wish:
            hold.downgrade()
            assert hold.view.readonly, "a reader's view is writable"
            with wish.inside(hold.view, kept=True):
                self.linger_here()

    def work(self, region: Region) -> None:
        while self.worker.goes_on():
            self.use(region)
            self.linger_here()
