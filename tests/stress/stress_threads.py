"""Threads that use a region at random."""

import contextlib
from collections.abc import Iterator

from history import Event, Kind
from stress_actors import Actor, Wish, upgrade_nowait

from shm_async import (
    Hold,
    LockTimeoutError,
    OwnerDiedError,
    Region,
    WouldBlockError,
)


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
            block = converts or self.dice.randrange(2)
            with held_here(hold, block, None) as view:
                with wish.inside(view):
                    self.linger_here()
                    if not converts:
                        self._inside_read(region, depth, block)
                if converts:
                    self._upgrade(hold)

    def _inside_read(self, region: Region, depth: int, block: int) -> None:
        if depth < 2 and self.chance(0.15):
            self.read(region, depth + 1)
        # without a block of ours the lock might be another one's by now: that would be a wait
        if block and not depth and not region.readonly and self.chance(0.02):
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
