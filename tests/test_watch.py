"""Change notification: who waits hears of every last change, and nobody else notices."""

import asyncio
import contextlib
import errno
import gc
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from conftest import Rival, our_descriptors, wait_until, writer_dies
from test_fork import fork, in_child  # noqa: F401  # a fixture

from shm_async import (
    OwnerDiedError,
    Region,
    RegionClosedError,
    RegionFormatError,
    RegionNotFoundError,
    RegionReplacedError,
    RegionSizeError,
    _native,
    asynclock,
    lookout,
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


@pytest.fixture
def peer(region: Region) -> Iterator[Peer]:
    peer = Peer(region)
    yield peer
    peer.end()


def word(region: Region) -> bool:
    """Whether the control page says that somebody sleeps until something changes."""
    assert region._opener is not None
    return bool(region._opener.control.watchers & 1)


def instances() -> int:
    return sum("inotify" in target for target in our_descriptors().values())


def waiting(region: Region) -> int:
    return sum(len(lookout.waiting) for lookout in region._lookouts.values())


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(SOON):
        while not condition():
            await anyio.sleep(0.001)


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
    before = waiting(region)
    async with anyio.create_task_group() as group:
        one = Watching(region, **arguments)
        group.start_soon(one.run)
        await until(lambda: waiting(region) > before)
        yield one
        group.cancel_scope.cancel()


# ---- what wakes ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["with", "async", "transaction"])
async def test_a_write_of_another_process_wakes(region: Region, peer: Peer, how: str):
    for turn in range(3):
        async with one_who_waits(region) as one:
            peer.do(how)
            assert await one.hear() == 2 * turn + 2 == region.generation


async def write_with(region: Region) -> None:
    with region.write_lock():
        pass


async def write_async(region: Region) -> None:
    async with region.write_lock():
        pass


async def write_in_a_transaction(region: Region) -> None:
    async with region.transaction() as view:
        view[0] += 1


async def write_and_read_on(region: Region) -> None:
    """The downgrade is the end of writing; the reader stays until the watcher has been told."""
    hold = region.write_lock()
    await hold.acquire()
    hold.downgrade()
    await until(lambda: not waiting(region))
    hold.release()


async def write_and_read_on_in_a_thread(region: Region) -> None:
    hold = region.write_lock()
    hold.acquire_blocking()
    hold.downgrade()
    await until(lambda: not waiting(region))
    hold.release()


async def read_and_write(region: Region) -> None:
    hold = region.read_lock()
    await hold.acquire()
    assert await hold.upgrade()
    hold.release()


async def hand_over_to_a_transaction(region: Region) -> None:
    """The lock goes from task to task, and who has it then writes nothing for long."""

    async def slow() -> None:
        async with region.transaction():
            await until(lambda: not waiting(region))

    async with anyio.create_task_group() as group:
        async with region.write_lock():
            group.start_soon(slow)
            await until(lambda: region.statistics().waiting == 1)
    assert region.statistics().hand_overs == 1


async def hand_over_to_a_reader(region: Region) -> None:
    async def slow() -> None:
        async with region.read_lock():
            await until(lambda: not waiting(region))

    async with anyio.create_task_group() as group:
        async with region.write_lock():
            group.start_soon(slow)
            await until(lambda: region.statistics().waiting == 1)
    assert region.statistics().hand_overs == 1


async def recover(region: Region) -> None:
    with region.write_lock(recover=True):
        pass


ENDS = [
    write_with,
    write_async,
    write_in_a_transaction,
    write_and_read_on,
    write_and_read_on_in_a_thread,
    read_and_write,
    hand_over_to_a_transaction,
    hand_over_to_a_reader,
    recover,
]


@pytest.mark.parametrize("end", ENDS)
async def test_every_end_of_a_write_wakes(region: Region, end, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asynclock, "MAX_KEEP", 3600)  # a slow machine hands over, too
    async with one_who_waits(region) as one:
        with anyio.fail_after(SOON):
            await end(region)
        assert await one.hear() == 2


async def read(region: Region) -> None:
    async with region.read_lock():
        pass
    with region.read_lock():
        pass


async def write_nothing(region: Region) -> None:
    with region.transaction() as view:
        view[0] = region.buffer[0]


async def fail_in_a_transaction(region: Region) -> None:
    with contextlib.suppress(KeyError):
        with region.transaction() as view:
            view[0] = 7
            raise KeyError


async def come_and_go(region: Region) -> None:
    with Region.attach(region.name) as other, other.read_lock():
        pass


@pytest.mark.parametrize("what", [read, write_nothing, fail_in_a_transaction, come_and_go])
async def test_what_is_no_change_wakes_nobody(region: Region, what):
    async with one_who_waits(region) as one:
        before = times(region)
        await what(region)
        assert times(region) == before, "it was told of"
        with region.write_lock():
            pass
        assert await one.hear() == 2  # and not 0, some time before
    assert region.generation == 2


async def test_a_writer_inside_is_no_change_yet(region: Region):
    async with one_who_waits(region) as one:
        with Region.attach(region.name) as other:
            hold = other.write_lock()
            hold.acquire_blocking()
            async with one_who_waits(region, since=0) as another:
                await anyio.sleep(3 * lookout.LOOK_AGAIN)
                assert one.told == another.told == []
                hold.release()
                assert await one.hear() == await another.hear() == 2


async def test_what_was_written_before_counts_although_somebody_is_inside(region: Region):
    """Or a watcher would never hear of writers that never pause."""
    for _ in range(3):
        await write_with(region)
    with Region.attach(region.name) as other, other.write_lock():
        assert region.generation == 7
        with anyio.fail_after(SOON):
            assert await region.wait_changed(since=0) == 6
            assert await region.wait_changed(since=5) == 6
        async with one_who_waits(region, since=6) as one:
            assert one.told == []


# ---- since ---------------------------------------------------------------------------


async def test_it_returns_at_once_if_the_region_has_come_further(region: Region):
    await write_with(region)
    with anyio.fail_after(SOON):
        for since in (-(10**30), -1, 0, 1):
            assert await region.wait_changed(since=since) == 2
    for since in (None, 2, 3, 4, 10**30):
        async with one_who_waits(region, **({} if since is None else {"since": since})) as one:
            assert one.told == []


async def test_who_asks_for_the_future_is_woken_then(region: Region):
    async with one_who_waits(region, since=3) as one:
        await write_with(region)
        await anyio.wait_all_tasks_blocked()
        assert one.told == []
        await write_with(region)
        assert await one.hear() == 4


@pytest.mark.parametrize("since", [True, 1.0, "1"])
async def test_what_is_no_generation_is_refused(region: Region, since):
    with pytest.raises(TypeError, match="since must be"):
        await region.wait_changed(since=since)
    with pytest.raises(TypeError, match="since must be"):
        region.changes(since=since)


async def test_a_loop_that_never_has_to_wait_lets_others_run(region: Region):
    ran = []

    async def other() -> None:
        ran.append(True)

    await write_with(region)
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        for _ in range(5):
            await region.wait_changed(since=0)
        assert ran


async def test_one_that_never_has_to_wait_can_be_cancelled(region: Region):
    await write_with(region)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await region.wait_changed(since=0)
    assert scope.cancelled_caught


# ---- changes -------------------------------------------------------------------------


async def test_changes_are_merged_for_who_is_slow(region: Region):
    seen = []
    with anyio.fail_after(SOON):
        changes = region.changes()
        await write_with(region)  # before the first step, and not missed
        async for generation in changes:
            seen.append(generation)
            if len(seen) == 3:
                break
            for _ in range(len(seen) + 1):
                await write_with(region)
    assert seen == [2, 6, 12]


async def test_changes_begin_where_they_are_told_to(region: Region):
    for _ in range(3):
        await write_with(region)
    with anyio.fail_after(SOON):
        async for generation in region.changes(since=2):
            assert generation == 6
            break
    async with one_who_waits(region):  # changes() from now on
        pass


async def test_any_number_of_tasks_may_follow(region: Region, peer: Peer):
    seen: list[list[int]] = [[] for _ in range(20)]

    async def follow(mine: list[int]) -> None:
        async for generation in region.changes():
            mine.append(generation)
            if generation >= 20:
                break

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as group:
            for mine in seen:
                group.start_soon(follow, mine)
            await until(lambda: waiting(region) == len(seen))
            peer.do("with", 10)
    for mine in seen:
        assert mine == sorted(set(mine))
        assert mine[-1] == 20


async def test_a_closed_iteration_is_over(region: Region):
    changes = region.changes(since=0)
    await write_with(region)
    assert await changes.__anext__() == 2
    await changes.aclose()
    await changes.aclose()
    assert [generation async for generation in changes] == []


async def test_a_dropped_iteration_leaves_nothing(region: Region):
    await write_with(region)
    async for _ in region.changes(since=0):
        break
    gc.collect()  # nothing to be told of: warnings are errors
    assert waiting(region) == 0


# ---- never the last one --------------------------------------------------------------


async def test_the_last_change_of_a_flood_is_never_missed(region: Region):
    peers = [Peer(region) for _ in range(2)]
    each = 3000
    seen = []
    try:
        changes = region.changes()
        for number, one in enumerate(peers):
            one.send(("with", "transaction")[number], each)
        with anyio.fail_after(40):
            async for generation in changes:
                seen.append(generation)
                if region.snapshot()[:4] == (2 * each).to_bytes(4, sys.byteorder):
                    break
        assert [one.hear() for one in peers] == ["done", "done"]
        while seen[-1] < 4 * each:  # it saw the data before it was told of the change
            with anyio.fail_after(SOON):
                seen.append(await region.wait_changed(since=seen[-1]))
        assert seen[-1] == region.generation == 4 * each
        assert seen == sorted(set(seen))
        assert all(generation % 2 == 0 for generation in seen)
        assert len(seen) > 3  # on a machine that has time for us: thousands
    finally:
        for one in peers:
            one.end()


async def test_every_single_change_is_heard_in_a_conversation(region: Region, peer: Peer):
    """Many times: what would be lost between looking and sleeping hangs here."""
    generation = 0
    with anyio.fail_after(30):
        for turn in range(500):
            peer.send(("with", "async", "transaction")[turn % 3] if turn % 50 == 0 else "with")
            generation = await region.wait_changed(since=generation)
            assert generation == 2 * turn + 2
            assert peer.hear() == "done"


async def test_a_writer_who_is_killed_before_telling_is_heard_all_the_same(region: Region):
    """The generation is even, nobody was told: the kernel closes its descriptor."""

    def end_untold() -> None:
        hold = region.write_lock()
        hold.acquire_blocking()
        region._opener.control.generation += 1
        os.kill(os.getpid(), signal.SIGKILL)

    async with one_who_waits(region) as one:
        kill_in_child(end_untold)
        assert await one.hear() == 2


def kill_in_child(work: Callable[[], None]) -> None:
    if (child := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


async def test_lost_events_wake_everybody(region: Region, monkeypatch: pytest.MonkeyPatch):
    """The kernel's queue was full: it says so, and no more."""

    def overflow(handle: object) -> list[int]:
        read(handle)
        return [-1]

    read = _native.watch_read
    monkeypatch.setattr(_native, "watch_read", overflow)
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 2


async def test_events_that_do_not_fit_into_one_read_are_read_later(name: str):
    """More objects than a batch, all changed before the loop gets to read."""
    with contextlib.ExitStack() as stack:
        regions = []
        for number in range(_native.ffi.typeof("int32_t[64]").length + 10):
            region = stack.enter_context(Region.create(f"{name}-{number}", 1))
            stack.callback(region.unlink)
            regions.append(region)
        told = [Watching(region) for region in regions]
        async with anyio.create_task_group() as group:
            for one in told:
                group.start_soon(one.run)
            await until(lambda: all(waiting(region) for region in regions))
            for region in regions:
                await write_with(region)
        assert [one.told for one in told] == [[2]] * len(regions)


# ---- who pays ------------------------------------------------------------------------


def times(region: Region) -> tuple[int, int]:
    found = os.stat(f"/dev/shm/{region.name}")
    return found.st_mtime_ns, found.st_ctime_ns


async def test_nobody_is_told_while_nobody_watches(region: Region):
    before = times(region)
    await write_with(region)
    assert not word(region)
    assert times(region) == before
    async with one_who_waits(region):
        assert word(region)
        await write_with(region)
        assert times(region) > before


async def test_a_watcher_who_is_killed_is_forgotten(region: Region):
    peer = Peer(region)
    peer.send("watch")
    assert peer.hear() == "watching"
    await until(lambda: word(region))
    await write_with(region)
    assert peer.hear() == "2"
    await until(lambda: word(region))
    peer.end()
    assert word(region)
    await write_with(region)
    assert not word(region)
    before = times(region)
    await write_with(region)
    assert times(region) == before


async def test_writers_that_are_faster_than_watchers_tell_once(region: Region):
    """Between two looks of the watcher the first one to end pays for all."""
    async with one_who_waits(region) as one:
        await write_with(region)
        before = times(region)
        for _ in range(10):
            with region.write_lock():
                pass
        assert times(region) == before
        assert await one.hear() == 22


async def test_who_hears_of_nothing_leaves_word_again(region: Region, peer: Peer):
    async with one_who_waits(region, since=10**9) as one:
        for _ in range(5):
            assert word(region)
            peer.do("with")
            await until(lambda: word(region))
        os.close(os.open(f"/dev/shm/{region.name}", os.O_RDWR))  # an event that means nothing
        assert one.told == []


async def test_who_watches_no_more_is_forgotten(region: Region, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lookout, "LINGER", 0.02)
    before = our_descriptors()
    async with one_who_waits(region):
        assert instances() == 1
    with anyio.move_on_after(0.01):
        await region.wait_changed()
    assert waiting(region) == 0
    await until(lambda: our_descriptors() == before)
    await write_with(region)
    assert not word(region)
    async with one_who_waits(region) as one:  # and may come back
        await write_with(region)
        assert await one.hear() == 4


async def test_who_comes_back_in_time_finds_all_in_place(region: Region):
    async with one_who_waits(region):
        opened = our_descriptors()
    for _ in range(3):
        async with one_who_waits(region):
            assert our_descriptors() == opened


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root cannot become another user")
def test_a_kernel_that_refuses_to_tell_fails_no_release(region: Region):
    async def main() -> None:
        async with one_who_waits(region):
            in_child(write_without_permission)

    def write_without_permission() -> None:
        with region.write_lock():  # opens its descriptor
            pass
        os.setuid(65534)
        with pytest.raises(PermissionError):
            os.utime(f"/dev/shm/{region.name}")
        with region.write_lock():
            pass

    anyio.run(main)
    assert region.generation == 4


# ---- many ----------------------------------------------------------------------------


async def test_a_thousand_watchers_share_one_inotify_instance(name: str):
    with contextlib.ExitStack() as stack:
        regions = []
        for number in range(100):
            region = stack.enter_context(Region.create(f"{name}-{number}", 1))
            stack.callback(region.unlink)
            regions.append(region)
        told = [Watching(region) for region in regions for _ in range(10)]
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for one in told:
                    group.start_soon(one.run)
                await until(lambda: sum(map(waiting, regions)) == 1000)
                assert instances() == 1
                for region in regions:
                    await write_with(region)
        assert [one.told for one in told] == [[2]] * 1000


async def test_attachments_of_one_object_share_one_watch(region: Region):
    with Region.attach(region.name) as other:
        async with one_who_waits(region) as one:
            async with one_who_waits(other) as another:
                [mine], [its] = region._lookouts.values(), other._lookouts.values()
                assert mine.number == its.number
                await write_with(region)
                assert await one.hear() == await another.hear() == 2
        async with one_who_waits(region) as one:
            other.close()
            await write_with(region)
            assert await one.hear() == 4


def test_each_event_loop_has_its_own(region: Region):
    heard = []
    ready = threading.Barrier(3)

    async def main() -> None:
        async with one_who_waits(region) as one:
            ready.wait()
            heard.append(await one.hear())

    threads = [
        threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    assert instances() == 2
    with region.write_lock():
        pass
    for thread in threads:
        thread.join()
    assert heard == [2, 2]
    assert instances() == 0


def test_a_loop_that_has_ended_leaves_no_instance(region: Region, anyio_backend):
    backend, options = anyio_backend

    async def main() -> None:
        async with one_who_waits(region) as one:
            await write_with(region)
            await one.hear()

    for _ in range(3):
        anyio.run(main, backend=backend, backend_options=options)
        assert instances() == 0


# ---- cancel and close ----------------------------------------------------------------


async def test_a_cancelled_wait_disturbs_nobody(region: Region):
    async with one_who_waits(region) as one:
        for _ in range(20):
            with anyio.move_on_after(0.001):
                await region.wait_changed()
        assert waiting(region) == 1
        await write_with(region)
        assert await one.hear() == 2
    assert waiting(region) == 0


async def test_one_who_is_cancelled_when_he_is_woken_has_missed_nothing(region: Region):
    async with one_who_waits(region, since=0):
        await write_with(region)
    with anyio.fail_after(SOON):
        assert await region.wait_changed(since=0) == 2


async def test_close_tells_who_waits(region: Region):
    async with one_who_waits(region) as one:
        async with one_who_waits(region) as another:
            region.close()
            for each in (one, another):
                assert isinstance(await each.hear(), RegionClosedError)
    with pytest.raises(RegionClosedError):
        await region.wait_changed()
    with pytest.raises(RegionClosedError):
        region.changes()


@pytest.mark.parametrize("discard", [False, True])
async def test_close_in_another_thread_tells_who_waits(region: Region, discard: bool):
    async with one_who_waits(region) as one:
        thread = threading.Thread(target=partial(region.close, discard=discard))
        thread.start()
        assert isinstance(await one.hear(), RegionClosedError)
        thread.join()


async def test_an_iteration_ends_with_the_region(region: Region):
    changes = region.changes()
    region.close()
    with pytest.raises(RegionClosedError):
        await changes.__anext__()


async def test_a_task_that_holds_a_lock_must_not_wait_for_a_change(region: Region):
    for hold in (region.read_lock(), region.write_lock()):
        async with hold:
            with anyio.fail_after(SOON):
                with pytest.raises(RuntimeError, match="nobody can write"):
                    await region.wait_changed()
    async with region.read_lock():
        assert await region.wait_changed(since=0) == 2  # but may ask


# ---- when a writer has died ----------------------------------------------------------


async def test_a_writer_who_dies_inside_is_told_of(region: Region):
    async with one_who_waits(region) as one:
        async with one_who_waits(region) as another:
            pid = writer_dies(region)
            for each in (one, another):
                error = await each.hear()
                assert isinstance(error, OwnerDiedError)
                assert error.pid == pid
    with pytest.raises(OwnerDiedError, match=str(pid)):
        await region.wait_changed()
    with region.write_lock(recover=True):
        pass
    with anyio.fail_after(SOON):
        assert await region.wait_changed(since=0) == region.generation == 4


async def test_what_was_written_before_the_death_is_told_first(region: Region):
    await write_with(region)
    writer_dies(region)
    with anyio.fail_after(SOON):
        assert await region.wait_changed(since=0) == 2
        with pytest.raises(OwnerDiedError):
            await region.wait_changed(since=2)


async def test_a_death_to_be_ignored_is_an_end_like_any_other(name: str):
    with Region.create(name, 1, on_owner_death="ignore") as region:
        async with one_who_waits(region) as one:
            writer_dies(region)
            assert await one.hear() == 2
        async with one_who_waits(region) as one:  # it is told once
            await write_with(region)
            assert await one.hear() == 4 == region.generation


async def test_a_function_repairs_what_a_watcher_finds(name: str):
    repaired = []

    def repair(hold) -> None:
        repaired.append(hold.view[0])
        hold.view[0] = 7

    with Region.create(name, 1, on_owner_death=repair) as region:
        async with one_who_waits(region) as one:
            async with one_who_waits(region) as another:
                writer_dies(region)
                for each in (one, another):
                    assert (await each.hear()) % 2 == 0
        assert repaired == [1]
        assert region.snapshot() == b"\7"


async def test_a_death_is_found_although_the_lock_is_taken_for_a_moment(
    region: Region, rival: Rival
):
    """One who takes flock alone stands in the way, and his release is heard by nobody."""
    writer_dies(region)
    rival.do("exclusive")
    async with one_who_waits(region) as one:
        await anyio.sleep(2 * lookout.LOOK_AGAIN)
        assert one.told == []
        rival.do("unlock")
        assert isinstance(await one.hear(), OwnerDiedError)


async def test_who_leaves_without_having_repaired_wakes_too(region: Region, rival: Rival):
    writer_dies(region)
    hold = region.write_lock(recover=True)
    async with anyio.create_task_group() as group:
        one = Watching(region, since=2)

        async def fail() -> None:
            with contextlib.suppress(KeyError):
                with hold:
                    group.start_soon(one.run)
                    await until(lambda: waiting(region) == 1)
                    raise KeyError

        await fail()
        assert isinstance(await one.hear(), OwnerDiedError)


# ---- regions of every kind -----------------------------------------------------------


@pytest.mark.parametrize("layout", ["raw", "sized"])
async def test_a_region_without_generation_says_so(name: str, layout):
    with Region.create(name, 1, layout=layout) as region:
        with pytest.raises(RegionFormatError, match=r"no control page.*layout='managed'"):
            await region.wait_changed()
        with pytest.raises(RegionFormatError, match=r"no control page.*layout='managed'"):
            region.changes()
        assert instances() == 0


@pytest.mark.parametrize("size", [0, 4096, 8191])
async def test_a_truncated_region_is_told(region: Region, rival: Rival, size: int):
    async with one_who_waits(region) as one:
        rival.do(f"truncate {size}")
        assert isinstance(await one.hear(), RegionSizeError)
    with pytest.raises(RegionSizeError):
        await region.wait_changed()
    with pytest.raises(RegionSizeError):
        await region.wait_changed(since=0)
    rival.do("truncate 8192")


async def test_whatever_is_on_the_control_page_a_wait_goes_on_or_says_why(region: Region):
    dice = random.Random(1)
    fields = slice(4096 + 128, 4096 + 200)  # those that change
    memory = region._opener.mapping.memory
    sound = bytes(memory[fields])
    for _ in range(200):
        memory[fields] = dice.randbytes(len(sound))
        with anyio.move_on_after(0.001):
            with contextlib.suppress(OwnerDiedError):
                await region.wait_changed(since=dice.choice([None, 0, 2**64]))
    memory[fields] = sound
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 2


async def test_an_unlinked_region_is_watched_like_any_other(region: Region, peer: Peer):
    region.unlink()
    async with one_who_waits(region) as one:
        peer.do("with")
        assert await one.hear() == 2


async def test_an_unlinked_region_that_must_have_its_name_is_told(region: Region):
    with Region.attach(region.name, if_unlinked="raise") as strict:
        async with one_who_waits(region) as one:
            async with one_who_waits(strict) as another:
                region.unlink()
                assert isinstance(await another.hear(), RegionNotFoundError)
                assert one.told == []


async def test_who_follows_hears_of_a_resize_as_of_any_change(region: Region):
    await write_with(region)
    with Region.attach(region.name, follow=True) as follower:
        async with one_who_waits(follower) as one:
            await region.resize_async(9)
            assert await one.hear() == 4
            assert len(follower) == 9
        async with one_who_waits(follower) as one:
            await write_with(region)
            assert await one.hear() == 6
        generation = 6
        async with one_who_waits(follower, since=generation) as one:
            for length in (20, 8, 30):
                await region.resize_async(length)
            generation = await one.hear()
        with anyio.fail_after(SOON):
            while generation < 12:
                generation = await follower.wait_changed(since=generation)
        assert generation == region.generation == 12


async def test_who_does_not_follow_is_told_of_a_resize(region: Region):
    with Region.attach(region.name) as other:
        async with one_who_waits(other) as one:
            await region.resize_async(9)
            assert isinstance(await one.hear(), RegionReplacedError)
        with pytest.raises(RegionReplacedError):
            await other.wait_changed()


@pytest.mark.parametrize("thread", [False, True])
async def test_who_resizes_hears_of_it_too(region: Region, thread: bool):
    """No `follow` is needed: this very object has the new one."""
    async with one_who_waits(region) as one:
        if thread:
            await anyio.to_thread.run_sync(region.resize, 9)
        else:
            await region.resize_async(9)
        assert await one.hear() == 2
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 4


async def test_a_readonly_attachment_watches_without_leaving_word(region: Region, peer: Peer):
    with Region.attach(region.name, readonly=True) as reader:
        for turn in range(3):
            async with one_who_waits(reader) as one:
                peer.do("with")
                assert await one.hear() == 2 * turn + 2
        assert not word(region)


async def test_a_system_v_segment_is_watched_through_its_companion(sysv_key: int):
    with Region.create(sysv_key, 2, dtype="uint64") as region:
        peer = Peer(region)
        try:
            for turn in range(2):
                async with one_who_waits(region) as one:
                    peer.do(("with", "transaction")[turn])
                    assert await one.hear() == 2 * turn + 2
            async with one_who_waits(region) as one:
                writer_dies(region)
                assert isinstance(await one.hear(), OwnerDiedError)
            with Region.attach(sysv_key, readonly=True, on_owner_death="ignore") as reader:
                with anyio.fail_after(SOON):
                    assert await reader.wait_changed(since=0) == 4
        finally:
            peer.end()
            region.unlink()


# ---- fork ----------------------------------------------------------------------------


async def test_a_child_takes_nothing_from_its_parent(region: Region, fork):  # noqa: F811
    def work() -> None:
        assert instances() == 0

        async def main() -> None:
            async with one_who_waits(region) as one:
                await write_with(region)
                assert await one.hear() == 2

        thread = threading.Thread(target=asyncio.run, args=(main(),))  # no loop runs there
        thread.start()
        thread.join()
        assert region.generation == 2
        region.close()

    async with one_who_waits(region) as one:
        before = our_descriptors()
        in_child(work, fork=fork)
        assert our_descriptors() == before
        assert await one.hear() == 2
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 4


# ---- limits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "code", "says"),
    [
        ("watch_open", errno.EMFILE, "max_user_instances"),
        ("watch_add", errno.ENOSPC, "max_user_watches"),
    ],
)
async def test_a_limit_of_inotify_is_named(
    region: Region, monkeypatch: pytest.MonkeyPatch, call: str, code: int, says: str
):
    def refuse(*arguments):
        return (-code, None, None) if call == "watch_open" else -code

    monkeypatch.setattr(_native, call, refuse)
    with pytest.raises(OSError, match=says) as caught:
        await region.wait_changed()
    assert caught.value.errno == code
    monkeypatch.undo()
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 2


async def test_it_works_without_proc(region: Region, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lookout, "FD_DIR", "/nonexistent")
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 2


async def test_without_proc_another_object_of_that_name_is_not_watched(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lookout, "FD_DIR", "/nonexistent")
    region.unlink()
    with Region.create(region.name, 1):
        with pytest.raises(OSError, match="another object") as caught:
            await region.wait_changed()
        assert caught.value.errno == errno.ESTALE


def test_exec_keeps_no_instance(region: Region):
    async def main() -> None:
        async with one_who_waits(region):
            [fd] = [fd for fd, target in our_descriptors().items() if "inotify" in target]
            flags = Path(f"/proc/self/fdinfo/{fd}").read_text()
            assert int(flags.split("flags:")[1].split()[0], 8) & os.O_CLOEXEC

    anyio.run(main)
    wait_until(lambda: instances() <= 1)
