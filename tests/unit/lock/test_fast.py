"""The spelled-out way in and out of a free lock leaves what the slow way leaves, field by field."""

import weakref
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from cohorts import queued
from rivals import Rival
from waits import until

from shm_async import Hold, Region, RegionClosedError
from shm_async._lock import slow
from shm_async._lock.cohort import Cohort
from shm_async._lock.deadlines import Deadline
from shm_async._lock.fast import WriteHold
from shm_async._lock.members import SOLE
from shm_async._lock.ways import InThread

LOCKS = {"read": lambda region: region.read_lock(), "write": lambda region: region.write_lock()}

#: What differs from use to use, or is another object each time; `_view` is looked at apart.
APART = {"__weakref__", "_view", "alarm", "closer", "opener", "pool", "tally"}

#: A writer's key is known to its cohort; the fast way spares the hold the store.
UNUSED = {"write": {"_task"}, "read": set()}


def slots(thing: object) -> dict[str, object]:
    names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
    return {name: getattr(thing, name) for name in names - APART if hasattr(thing, name)}


def state_of(hold: Hold, place: object, kind: str) -> dict[str, object]:
    view = hold._view
    found = {name: value for name, value in slots(hold).items() if name not in UNUSED[kind]}
    found["tokens"] = (hasattr(hold, "_free"), hasattr(hold, "_held"))
    found["view"] = None if view is None else (view.readonly, view.format, view.nbytes)
    found["place"] = {
        name: value.copy() if isinstance(value, (dict, list)) else value
        for name, value in slots(place).items()
    }
    found["kernel"] = (place.handle.mode, place.handle.writing, place.handle.at_gate)
    return found


@pytest.mark.parametrize("kind", LOCKS)
async def test_in_a_task(region: Region, kind: str):
    lock: Callable[[Region], Hold] = LOCKS[kind]
    hold = lock(region)
    async with hold:
        pass  # the cohort is there from now on
    cohort = region._table.cohort
    seen = []
    for fast in (True, False):
        hold._task = None  # of an earlier use
        if fast:
            await hold.__aenter__()
        else:
            await hold._claim_and_acquire(hold._way())
        inside = state_of(hold, cohort, kind)
        assert inside["place"].pop("idle") is (SOLE if fast else False)
        if fast:
            await hold.__aexit__(None, None, None)
        else:
            assert hold._take()
            hold._leave()
        seen.append((inside, state_of(hold, cohort, kind)))
    assert seen[0] == seen[1]
    assert (seen[0][0]["_at"], seen[0][1]["_at"], cohort.idle) == (cohort, None, True)


@pytest.mark.parametrize("kind", LOCKS)
def test_in_a_thread(region: Region, kind: str):
    hold = LOCKS[kind](region)
    with hold:
        pass  # the pool has a seat from now on
    seen = []
    for fast in (True, False):
        if fast:
            hold.__enter__()
        else:
            slow.run(hold._claim_and_acquire(InThread(Deadline(None))))
        seat = hold._at
        assert seat is not None
        inside = state_of(hold, seat, kind)
        if fast:
            hold.__exit__(None, None, None)
        else:
            assert hold._take()
            hold._leave()
        seen.append((inside, state_of(hold, seat, kind)))
    assert seen[0] == seen[1]
    assert (seen[0][0]["_at"], seen[0][1]["_at"]) == (seat, None)


async def test_beside_a_reader_of_the_same_loop(region: Region):
    """A second reader joins the first, also spelled out."""
    async with region.read_lock():
        hold = region.read_lock()
        seen = []
        for fast in (True, False):
            if fast:
                await hold.__aenter__()
            else:
                await hold._claim_and_acquire(hold._way())
            cohort = hold._at
            assert cohort is not None
            inside = state_of(hold, cohort, "read")
            assert hold._take()
            hold._leave()
            seen.append((inside, state_of(hold, cohort, "read")))
    for inside, outside in seen:
        inside["place"].pop("share_until"), outside["place"].pop("share_until")
    assert seen[0] == seen[1]


@pytest.mark.parametrize("how", ["block", "nowait", "nested"])
async def test_the_first_of_two_readers_leaves_the_lock_to_the_second(
    region: Region, rival: Rival, how: str
):
    """It entered as the only one, and is not by the time its block ends."""
    first, second = region.read_lock(), region.read_lock()
    leave = anyio.Event()
    async with first:
        pass  # the cohort is there from now on

    async def read() -> None:
        async with second:
            await leave.wait()

    async with anyio.create_task_group() as group:
        async with first:
            if how == "block":
                group.start_soon(read)
                await anyio.wait_all_tasks_blocked()
            elif how == "nowait":
                second.acquire_nowait()
            else:
                await second.__aenter__()  # the task reads already
        assert rival.do("try-exclusive") == "busy"
        assert second.view[0] == 0
        leave.set()
    if how != "block":
        second.release()
    assert rival.do("try-exclusive") == "done"


async def test_in_a_task_that_waited(region: Region, rival: Rival):
    """Another process has the lock at first: the short way into the queue, and the long one."""
    hold = region.write_lock()
    async with hold:
        pass  # the cohort is there from now on
    cohort = region._table.cohort
    seen = []
    for fast in (True, False):
        assert rival.do("exclusive") == "done"
        async with anyio.create_task_group() as group:
            group.start_soon(unlock_when_asked, region, rival)
            if fast:
                await hold.__aenter__()
            else:
                await hold._claim_and_acquire(hold._way())
        inside = state_of(hold, cohort, "write")
        assert inside["place"].pop("idle") is (SOLE if fast else False)
        assert bool(inside["place"].pop("share_until")) is not fast
        await hold.__aexit__(None, None, None)
        seen.append((inside, state_of(hold, cohort, "write")))
    assert seen[0] == seen[1]
    assert (seen[0][0]["_at"], seen[0][1]["_at"], cohort.idle) == (cohort, None, True)


async def unlock_when_asked(region: Region, rival: Rival) -> None:
    await until(lambda: region.statistics().waiting)
    assert rival.do("unlock") == "done"


async def test_a_region_closed_between_the_grant_and_the_block_closes_its_descriptor_after_it(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    granted = Cohort._enter_head

    def grant_and_close(cohort: Cohort) -> None:
        granted(cohort)
        region.close()

    monkeypatch.setattr(Cohort, "_enter_head", grant_and_close)
    async with region.write_lock():
        pass
    cohort = region._table.cohort
    assert rival.do("exclusive") == "done"
    async with anyio.create_task_group() as group:
        group.start_soon(unlock_when_asked, region, rival)
        async with region.write_lock() as view:
            view[0] = 1
            assert cohort.closer is not None
    assert (cohort.closer, cohort.idle) == (None, False)
    assert rival.do("try-exclusive") == "done"


async def test_a_writer_that_waited_hands_over_to_the_next(region: Region, rival: Rival):
    """It is not alone: another one queued before it was granted, or after."""
    entered = []
    leave = anyio.Event()

    async def write(number: int) -> None:
        async with region.write_lock():
            entered.append(number)
            if number == 0:
                await leave.wait()

    async with region.write_lock():
        pass
    assert rival.do("exclusive") == "done"
    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(write, number)
            await anyio.wait_all_tasks_blocked()
        assert rival.do("unlock") == "done"
        await until(lambda: entered)
        group.start_soon(write, 2)
        await anyio.wait_all_tasks_blocked()
        assert region.statistics().waiting == 2
        leave.set()
    assert entered == [0, 1, 2]
    assert rival.do("try-exclusive") == "done"


async def test_two_tasks_in_turns_do_not_keep_others_out(region: Region, rival: Rival):
    """The queue is empty whenever one of them has just been let in."""
    done = anyio.Event()

    async def write() -> None:
        while not done.is_set():
            async with region.write_lock():
                await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(write)
        await until(lambda: region.statistics().hand_overs > 10)
        rival.send("exclusive")
        with anyio.move_on_after(20) as scope:
            await anyio.to_thread.run_sync(rival.finish, abandon_on_cancel=True)
        done.set()
        if not scope.cancelled_caught:
            assert rival.do("unlock") == "done"
    assert not scope.cancelled_caught


# ---- holds that are handed out again -------------------------------------------------


async def is_spare_after_it_handed_over(region: Region, hold: WriteHold) -> bool:
    """Hold it while another task comes and queues, with a hold of its own, and give it the lock."""

    async def follow() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        async with hold:
            group.start_soon(follow)
            await until(lambda: queued(region))
            assert region._table.spare_write is not hold  # it is the other task's
        return region._table.spare_write is hold


async def test_the_hold_of_a_block_that_handed_the_lock_over_is_handed_out_again(region: Region):
    assert await is_spare_after_it_handed_over(region, region.write_lock())
    hold = weakref.ref(region.write_lock())
    assert region.write_lock() is hold()


async def test_a_hold_that_somebody_keeps_is_not_handed_out_again(region: Region):
    kept = region.write_lock()
    assert await is_spare_after_it_handed_over(region, kept)
    assert region.write_lock() is not kept


async def test_a_spare_hold_that_is_acquired_without_a_block_is_not_handed_out(region: Region):
    hold = region.write_lock()
    assert region._table.spare_write is hold
    hold.acquire_nowait()
    assert region._table.spare_write is None
    hold.release()


async def test_a_hold_with_options_is_not_handed_out_without_them(region: Region):
    assert not await is_spare_after_it_handed_over(region, region.write_lock(fast_acquire=False))
    assert region.write_lock().plain


async def test_a_closed_region_keeps_no_hold(region: Region):
    other = Region.attach(region.name)

    async def follow() -> None:
        with pytest.raises(RegionClosedError):
            async with other.write_lock():
                pass

    async with anyio.create_task_group() as group:
        async with other.write_lock():
            group.start_soon(follow)
            await until(lambda: queued(other))
            other.close()
        assert other._table.spare_write is None
