"""A live region, somebody who scribbles on its control page, and all that is asked of it meanwhile.

`play` reads a script from bytes, so that hypothesis and a fuzzer drive the same thing. What it
checks after every step: nothing but documented exceptions, flock alone decides who is inside,
and nothing stays locked.
"""

import asyncio
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from shm_async import Hold, OwnerDiedError, Region, RegionFormatError
from shm_async._memory import control

POLICIES = ("raise", "ignore", "repair")
LIMIT = 5.0  # seconds: nobody else has the lock, so no wait may last

#: Where the fields begin that change: the generation, the writer's start and pid, whether it was
#: replaced, the writer's moment, the gate's hint, the watchers.
CHANGING = (128, 136, 144, 148, 152, 192, 196)

#: Where the cookie of a System V segment's companion stands. A wrong one keeps everybody out.
COMPANION = 200

NUMBERS = (
    0, 1, 2, 3, 2**31, 2**32 - 1, 2**32, 2**63 - 2, 2**63 - 1, 2**63, 2**63 + 1,
    2**64 - 2, 2**64 - 1,
)  # fmt: skip


class ScriptEnds(Exception):
    """There are no more bytes."""


class Script:
    """Choices, read from bytes."""

    def __init__(self, data: bytes) -> None:
        self.bytes = iter(data)

    def below(self, limit: int) -> int:
        """A number below a limit of at most 256."""
        try:
            return next(self.bytes) % limit
        except StopIteration:
            raise ScriptEnds from None

    def number(self) -> int:
        """One of 64 bits: an interesting one, or any."""
        which = self.below(len(NUMBERS) + 4)
        if which < len(NUMBERS):
            return NUMBERS[which]
        ours = (os.getpid(), control.start_of("self") or 0, time.monotonic_ns())
        if which < len(NUMBERS) + 3:
            return ours[which - len(NUMBERS)]
        return int.from_bytes(bytes(self.below(256) for _ in range(8)), "little")


class Vandal:
    """Writes to a region's control page through a mapping of its own."""

    def __init__(self, name: str | int) -> None:
        with ExitStack() as stack:
            if isinstance(name, str):
                path = f"/dev/shm/{name}"
                self.memory = stack.enter_context(mmap.mmap(_fd(path, stack), 0))
            else:
                path = f"/dev/shm/shm_async.sysv.{name:08x}"
                other = stack.enter_context(Region.attach(name, layout="raw"))
                self.memory = stack.enter_context(other.buffer)
            self.fd = _fd(path, stack)  # of what carries the lock
            self.start = len(self.memory) - control.CONTROL_SIZE
            self.cookie = bytes(self.memory[self.start + COMPANION :][:8])
            self.close = stack.pop_all().close

    def write(self, offset: int, data: bytes) -> None:
        data = data[: control.CONTROL_SIZE - offset]
        self.memory[self.start + offset : self.start + offset + len(data)] = data

    def act(self, script: Script) -> None:
        """One stroke, mostly at what changes."""
        which = script.below(2 * len(CHANGING))
        if which < len(CHANGING):
            offset = CHANGING[which]
        else:
            offset = script.below(256) + (script.below(16) * 256 if which % 2 else 0)
        self.write(offset, script.number().to_bytes(8, "little"))

    def refused(self, error: BaseException) -> bool:
        """Whether that is what a scribble on the companion's cookie brings; then put it right."""
        refused = isinstance(error, OSError) and error.errno == errno.EIDRM
        if refused:
            assert bytes(self.memory[self.start + COMPANION :][:8]) != self.cookie
            self.write(COMPANION, self.cookie)
        return refused

    def may_lock(self, how: int) -> bool:
        """Whether somebody who knows flock alone is let in."""
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return True


def _fd(path: str, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


class Play:
    """The region, the vandal, and what is asked. Every method is one scene."""

    def __init__(self, region: Region, vandal: Vandal, script: Script) -> None:
        self.region = region
        self.vandal = vandal
        self.script = script

    # ---- what must hold ----------------------------------------------------------

    def strokes(self) -> None:
        for _ in range(self.script.below(3)):
            self.vandal.act(self.script)

    def inside(self, hold: Hold | None, *, exclusive: bool) -> None:
        """Somebody is inside: scribble, and see that the kernel keeps others out."""
        self.strokes()
        assert self.vandal.may_lock(fcntl.LOCK_SH) != exclusive
        assert not self.vandal.may_lock(fcntl.LOCK_EX)
        self.seen("write" if exclusive else "read")
        if hold is not None:
            assert len(hold.view) == len(self.region)
        self.facts()

    def seen(self, kind: str) -> None:
        """We are listed; at once, unless the host has very many locks that come and go."""
        for _ in range(20):
            found = [each for each in self.region.holders() if not each.waiting]
            if [(each.pid, each.kind) for each in found] == [(os.getpid(), kind)]:
                assert found[0].since is None or found[0].since >= 0
                return
        raise AssertionError(f"{found} is not us, for a {kind} lock")

    def facts(self) -> None:
        self.region.statistics()
        repr(self.region)
        generation = self.region.generation
        assert generation is None or 0 <= generation < 2**64

    def outside(self) -> None:
        assert self.vandal.may_lock(fcntl.LOCK_EX), "something stayed locked"
        assert self.region.holders() == ()
        self.facts()

    # ---- scenes ------------------------------------------------------------------

    def scribble(self) -> None:
        self.vandal.act(self.script)

    def lock(self, hold: Hold, *, exclusive: bool) -> None:
        with hold:
            self.inside(hold, exclusive=exclusive)

    def read(self) -> None:
        self.lock(self.region.read_lock(timeout=LIMIT), exclusive=False)

    def write(self) -> None:
        self.lock(self.region.write_lock(timeout=LIMIT), exclusive=True)

    def plain(self) -> None:
        with self.region.write_lock() as view:
            view[0] = 255 - view[0]
        with self.region.read_lock():
            self.strokes()

    def nowait(self) -> None:
        exclusive = bool(self.script.below(2))
        hold = self.region.write_lock() if exclusive else self.region.read_lock()
        hold.acquire_nowait()
        try:
            self.inside(hold, exclusive=exclusive)
        finally:
            hold.release()

    def recover(self) -> None:
        hold = self.region.write_lock(timeout=LIMIT, recover=True)
        try:
            with hold:
                self.inside(hold, exclusive=True)
                if self.script.below(2):
                    raise KeyError
        except KeyError:
            return
        except OwnerDiedError as error:
            raise AssertionError("recover=True is always let in") from error

    def convert(self) -> None:
        hold = self.region.read_lock(timeout=LIMIT)
        with hold:
            self.inside(hold, exclusive=False)
            assert hold.upgrade_blocking(LIMIT)
            self.inside(hold, exclusive=True)
            hold.downgrade()
            self.inside(hold, exclusive=False)

    def transaction(self) -> None:
        value = self.script.below(256)
        with self.region.transaction(timeout=LIMIT) as view:
            self.inside(None, exclusive=True)
            view[0] = value
        assert self.region.buffer[0] == value

    def snapshot(self) -> None:
        assert self.region.snapshot(timeout=LIMIT) == bytes(self.region.buffer)

    def attach(self) -> None:
        """A page that is damaged is told or taken for data, and the lock is the same one."""
        try:
            other = Region.attach(self.region.key or self.region.name, on_owner_death="ignore")
        except RegionFormatError as error:
            assert "control page" in str(error) or "format version" in str(error)  # noqa: PT017
            return
        with other, other.write_lock(timeout=LIMIT):
            assert not self.vandal.may_lock(fcntl.LOCK_SH)

    SCENES = (
        scribble, scribble, read, write, plain, nowait, recover, convert, transaction, snapshot,
        attach,
    )  # fmt: skip

    def go_on(self) -> None:
        while True:
            self.ask(self.SCENES[self.script.below(len(self.SCENES))])
            self.outside()

    def ask(self, scene: Callable[["Play"], None]) -> None:
        try:
            scene(self)
        except OwnerDiedError:
            assert self.region._terms.on_owner_death != "ignore"
        except OSError as error:
            if not self.vandal.refused(error):
                raise

    # ---- in an event loop ----------------------------------------------------------

    async def lock_async(self, hold: Hold, *, exclusive: bool) -> None:
        async with hold:
            self.inside(hold, exclusive=exclusive)
            await asyncio.sleep(0)
            self.strokes()

    async def convert_async(self) -> None:
        hold = self.region.read_lock()
        async with hold:
            await asyncio.sleep(0)
            self.strokes()
            await hold.upgrade()
            self.strokes()
            await asyncio.sleep(0)
            hold.downgrade()

    async def transaction_async(self) -> None:
        async with self.region.transaction() as view:
            await asyncio.sleep(0)
            self.strokes()
            view[0] = self.script.below(256)

    async def snapshot_async(self) -> None:
        await self.region.snapshot_async()

    async def task(self) -> None:
        """One of several at once, so that the lock goes from task to task."""
        which = self.script.below(6)
        if which < 3:
            kinds: tuple[Callable[[], Hold], ...] = (
                self.region.read_lock,
                self.region.write_lock,
                lambda: self.region.write_lock(recover=True),
            )
            await self.lock_async(kinds[which](), exclusive=which > 0)
        else:
            await (self.convert_async, self.transaction_async, self.snapshot_async)[which - 3]()

    async def go_on_async(self) -> None:
        while True:
            tasks = [asyncio.create_task(self.task()) for _ in range(1 + self.script.below(4))]
            await asyncio.wait_for(asyncio.wait(tasks), LIMIT)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            refusal: OSError | None = None
            for error in outcomes:
                if isinstance(error, OwnerDiedError):
                    assert self.region._terms.on_owner_death != "ignore"
                elif isinstance(error, OSError) and error.errno == errno.EIDRM:
                    refusal = error
                elif error is not None:
                    raise error
            if refusal is not None:
                assert self.vandal.refused(refusal)
            self.outside()


@contextmanager
def stage(name: str | int, data: bytes) -> Iterator[Play]:
    """A region of that name, or key, and a play in it; the first byte chooses the policy."""
    script = Script(data)

    def repair(hold: Hold) -> None:
        hold.view[1] = 255 - hold.view[1]
        vandal.act(script)

    policy = POLICIES[data[0] % len(POLICIES)] if data else "raise"
    region = Region.create(name, 5, on_owner_death=repair if policy == "repair" else policy)
    try:
        vandal = Vandal(name)
        try:
            yield Play(region, vandal, script)
        finally:
            vandal.close()
    finally:
        region.unlink()
        region.close()


def play(name: str | int, data: bytes) -> None:
    """Play a script, in this thread. Raises whatever should not have happened."""
    with stage(name, data) as play:
        try:
            play.go_on()
        except ScriptEnds:
            pass
        play.outside()


def play_async(name: str | int, data: bytes) -> None:
    """Play a script, in an event loop."""
    with stage(name, data) as play:
        try:
            asyncio.run(play.go_on_async())
        except ScriptEnds:
            pass
        play.outside()
