"""Change notification: no last change is missed, and nobody pays who has not asked for it."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from forks import in_child
from privileges import needs
from traces import our_descriptors
from waits import until
from watchers import (
    SOON,
    Peer,
    Watching,
    instances,
    one_who_waits,
    times,
    waiting,
    word,
    write_with,
)

from shm_async import Region, _native
from shm_async._watch import lookout

# ---- never the last one ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*stops its event loop:ResourceWarning")  # on purpose
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
        region._table.opener.control.generation += 1
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


# ---- who pays ----------------------------------------------------------------------------------


async def test_nobody_is_told_while_nobody_watches(region: Region):
    os.utime(f"/dev/shm/{region.name}", ns=(0, 0))  # as the kernel's clock may be a coarse one
    before = times(region)
    await write_with(region)
    assert not word(region)
    assert times(region) == before
    async with one_who_waits(region):
        assert word(region)
        await write_with(region)
        assert times(region)[0] > 0


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


@needs("another user")
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


# ---- many --------------------------------------------------------------------------------------


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
                [mine], [its] = region._watchers.lookouts(), other._watchers.lookouts()
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
