"""Change notification: who waits hears of every last change, and nobody else notices."""

import contextlib
import gc

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from waits import until
from watchers import SOON, Peer, one_who_waits, times, waiting, write_with

from shm_async import Region
from shm_async._lock import cohort
from shm_async._watch import lookout

# ---- what wakes --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["with", "async", "transaction"])
async def test_a_write_of_another_process_wakes(region: Region, peer: Peer, how: str):
    for turn in range(3):
        async with one_who_waits(region) as one:
            peer.do(how)
            assert await one.hear() == 2 * turn + 2 == region.generation


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
    monkeypatch.setattr(cohort, "MAX_KEEP", 3600)  # a slow machine hands over, too
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


# ---- since -------------------------------------------------------------------------------------


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


# ---- changes -----------------------------------------------------------------------------------


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
