"""Change notification: waits that end by a cancellation, a close or a death."""

import contextlib
import threading
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from dying import writer_dies
from rivals import Rival
from waits import until
from watchers import SOON, Watching, one_who_waits, waiting, write_with

from shm_async import OwnerDiedError, Region, RegionClosedError
from shm_async._watch import lookout

# ---- cancel and close --------------------------------------------------------------------------


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


# ---- when a writer has died --------------------------------------------------------------------


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
