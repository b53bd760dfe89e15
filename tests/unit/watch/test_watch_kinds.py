"""Change notification for regions of every kind, in forked children, and at the limits."""

import asyncio
import contextlib
import errno
import os
import random
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from dying import writer_dies
from forks import in_child
from rivals import Rival
from traces import our_descriptors
from waits import wait_until
from watchers import SOON, Peer, instances, one_who_waits, word, write_with

from shm_async import (
    OwnerDiedError,
    Region,
    RegionFormatError,
    RegionNotFoundError,
    RegionReplacedError,
    RegionSizeError,
    _native,
)
from shm_async._watch import lookout

# ---- regions of every kind ---------------------------------------------------------------------


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
    memory = region._table.opener.mapping.memory
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


# ---- fork --------------------------------------------------------------------------------------


async def test_a_child_takes_nothing_from_its_parent(region: Region, fork):
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


# ---- limits ------------------------------------------------------------------------------------


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
