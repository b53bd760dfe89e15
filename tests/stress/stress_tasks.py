"""Tasks that use a region at random, in any event loop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
from history import Event, Kind
from stress_actors import HOLD, LOOKS, Actor, Wish, Worker, upgrade_nowait
from stress_kernel import flock_rows

from shm_async import (
    Hold,
    OwnerDiedError,
    Region,
    WouldBlockError,
)


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
            block = converts or self.dice.randrange(2)
            async with held(hold, block) as view:
                with wish.inside(view):
                    await self.linger()
                    if not converts:
                        await self._inside_read(region, depth, block)
                if converts:
                    await self._upgrade(hold)

    async def _inside_read(self, region: Region, depth: int, block: int) -> None:
        if depth < 2 and self.chance(0.15):
            await self.read(region, depth + 1)
        # without a block of ours the lock might be another one's by now: that would be a wait
        if block and not depth and not region.readonly and self.chance(0.02):
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
