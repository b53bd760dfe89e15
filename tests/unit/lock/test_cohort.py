"""The cohort: its queue, hand-overs, cancellation, and the ends of loops and regions."""

import random
import time
from collections import Counter

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from cohorts import idle, queued, until_blocked
from rivals import Rival
from traces import our_descriptors, our_threads
from waits import until

from shm_async import Region, WouldBlockError
from shm_async._lock import cohort

# ---- the fast path -----------------------------------------------------------------------------


async def test_a_free_lock_is_taken_without_yielding_or_a_thread(region: Region):
    others_ran = []
    async with anyio.create_task_group() as group:
        await anyio.lowlevel.checkpoint()
        group.start_soon(anyio.sleep, 0)
        group.start_soon(note, others_ran)
        for _ in range(100):
            async with region.write_lock():
                pass
            async with region.read_lock():
                pass
        assert others_ran == []
    assert our_threads() == set()


async def note(ran: list[bool]) -> None:
    ran.append(True)


async def test_fast_acquire_false_is_a_checkpoint(region: Region):
    others_ran: list[bool] = []
    async with anyio.create_task_group() as group:
        group.start_soon(note, others_ran)
        for _ in range(20):  # trio's order is random
            async with region.write_lock(fast_acquire=False):
                pass
        assert others_ran == [True]
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with region.write_lock(fast_acquire=False):
            pytest.fail("it was cancelled")
    async with region.write_lock():
        pass


async def test_nothing_but_the_first_lock_opens_a_descriptor(region: Region):
    async with region.write_lock():
        pass
    before = our_descriptors()
    for _ in range(50):
        async with region.write_lock():
            pass
        async with region.read_lock():
            pass
    assert our_descriptors() == before


async def test_a_hold_is_handed_out_again_only_when_nobody_has_it(region: Region):
    async with region.write_lock():
        first = id(region.write_lock())
    kept = region.write_lock()
    assert region.write_lock() is not kept
    held = region.read_lock()
    await held.acquire()
    assert region.read_lock() is not held
    async with region.read_lock() as view:
        assert view.readonly
    held.release()
    assert first


# ---- the queue ---------------------------------------------------------------------------------


async def enter_in_turn(region: Region, kinds: str) -> list[str]:
    """Queue up behind a writer, one after the other, and tell how they got in."""
    log: list[str] = []
    inside = 0

    async def one(number: int, kind: str) -> None:
        nonlocal inside
        async with region.write_lock() if kind == "w" else region.read_lock():
            inside += 1
            log.append(f"{kind}{number}")
            await anyio.sleep(0.001)
            if kind == "w":
                assert inside == 1
            inside -= 1

    async with anyio.create_task_group() as group, region.write_lock():
        for number, kind in enumerate(kinds):
            group.start_soon(one, number, kind)
            await until(lambda n=number: queued(region) == n + 1)
    return log


async def test_writers_enter_in_the_order_they_came(region: Region):
    assert await enter_in_turn(region, "wwwww") == ["w0", "w1", "w2", "w3", "w4"]


async def test_readers_enter_together_and_overtake_no_writer(region: Region):
    log = await enter_in_turn(region, "rrwrrw")
    assert [set(log[:2]), log[2], set(log[3:5]), log[5]] == [{"r0", "r1"}, "w2", {"r3", "r4"}, "w5"]


async def test_a_new_reader_does_not_pass_a_queued_writer(region: Region):
    order: list[str] = []

    async def enter(kind: str) -> None:
        if kind == "r":
            with pytest.raises(WouldBlockError):
                region.read_lock().acquire_nowait()
        async with region.write_lock() if kind == "w" else region.read_lock():
            order.append(kind)

    async with anyio.create_task_group() as group, region.read_lock():
        group.start_soon(enter, "w")
        await until(lambda: queued(region) == 1)
        group.start_soon(enter, "r")
        await until(lambda: queued(region) == 2)
    assert order == ["w", "r"]


async def test_hand_overs_are_bounded_so_that_others_get_in(
    region: Region, rival: Rival, monkeypatch
):
    """A foreign flock user gets its turn although the queue never runs dry."""
    monkeypatch.setattr(cohort, "MAX_PASSES", 4)
    stop = False

    async def hammer() -> None:
        while not stop:
            async with region.write_lock():
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(hammer)
        await anyio.sleep(0.01)
        for _ in range(5):
            rival.send("exclusive")
            await anyio.to_thread.run_sync(rival.finish)
            rival.do("unlock")
        stop = True


async def test_writers_hand_over_past_the_bound_while_nobody_is_at_the_gate(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cohort, "MAX_PASSES", 2)
    monkeypatch.setattr(cohort, "MAX_KEEP_ALONE", 3600)  # a slow machine hands over, too

    async def write() -> None:
        async with region.write_lock():
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(write)
    assert region.statistics().hand_overs == 9
    assert region.statistics().kernel_requests == 0


@pytest.mark.parametrize("layout", ["managed", "raw"])
async def test_past_the_bound_a_waiter_at_the_gate_comes_first(
    name: str, layout, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cohort, "MAX_PASSES", 2)
    monkeypatch.setattr(cohort, "MAX_KEEP_ALONE", 3600)
    order: list[object] = []

    def thread(elsewhere: Region) -> None:
        with elsewhere.write_lock():
            order.append("thread")

    async def write(number: int, elsewhere: Region, group: anyio.abc.TaskGroup) -> None:
        async with region.write_lock():
            order.append(number)
            if len(order) == 6:
                group.start_soon(anyio.to_thread.run_sync, thread, elsewhere)
                await until_blocked()
            await anyio.lowlevel.checkpoint()

    with (
        Region.create(name, 8, layout=layout, unlink="creator") as region,
        Region.attach(name) as elsewhere,
    ):
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(write, number, elsewhere, group)
    assert order[6] == "thread"


async def test_a_stream_of_readers_lets_another_process_write(region: Region, rival: Rival):
    stop = False

    async def read() -> None:
        while not stop:
            async with region.read_lock():
                await anyio.sleep(random.random() / 1000)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(read)
        await anyio.sleep(0.01)
        rival.send("exclusive")
        with anyio.fail_after(20):
            await anyio.to_thread.run_sync(rival.finish)
        rival.do("unlock")
        stop = True


async def test_one_thread_and_one_eventfd_serve_a_thousand_waiters(region: Region, rival: Rival):
    async with region.write_lock():
        pass
    before = len(our_descriptors())
    counts: Counter[str] = Counter()

    async def wait(kind: str) -> None:
        async with region.write_lock() if kind == "w" else region.read_lock():
            counts[kind] += 1

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(wait, "wr"[number % 2])
        await until(lambda: queued(region) == 1000)
        await until_blocked()
        assert len(our_threads()) == 1
        assert len(our_descriptors()) == before + 1
        rival.do("unlock")
    assert counts == {"w": 500, "r": 500}
    assert region.generation == 2 * 501


async def test_waiting_costs_no_processor_time(region: Region, rival: Rival):
    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(region.write_lock().acquire)
        await until_blocked()
        before = time.process_time()
        await anyio.sleep(0.5)
        assert time.process_time() - before < 0.1
        group.cancel_scope.cancel()


# ---- nesting and self-deadlock -----------------------------------------------------------------


async def test_a_task_may_read_again_while_it_reads(region: Region):
    async with region.read_lock() as outer, region.read_lock() as inner:
        assert outer[0] == inner[0] == 0


async def test_a_nested_read_works_with_a_writer_queued_and_long_after(region: Region):
    async def write() -> None:
        async with region.write_lock() as view:
            view[0] += 1

    async with anyio.create_task_group() as group, region.read_lock():
        group.start_soon(write)
        await until(lambda: queued(region) == 1)
        await anyio.sleep(2 * cohort.MAX_KEEP)
        async with region.read_lock() as view:
            assert view[0] == 0
    assert region.buffer[0] == 1


@pytest.mark.parametrize("first", ["read", "write"])
@pytest.mark.parametrize("second", ["read", "write"])
async def test_a_task_is_not_left_to_wait_for_itself(region: Region, first: str, second: str):
    if first == second == "read":
        return
    locks = {"read": region.read_lock, "write": region.write_lock}
    async with locks[first]():
        with pytest.raises(RuntimeError, match="wait for itself"):
            await locks[second]().acquire()
        with pytest.raises(RuntimeError, match="wait for it for ever"):
            locks[second]().acquire_blocking()
    async with region.write_lock(), anyio.create_task_group() as group:
        group.start_soon(waits_and_is_cancelled, region)


async def waits_and_is_cancelled(region: Region) -> None:
    with anyio.move_on_after(0.01) as scope:
        await region.write_lock().acquire()
    assert scope.cancelled_caught


@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
async def test_an_exception_right_after_a_queued_grant_leaves_nothing(
    region: Region, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """Such as Ctrl-C, which may come between any two steps."""
    hold = getattr(region, kind)()
    leave = anyio.Event()

    class Interrupting:
        def __getitem__(self, _: object) -> None:
            raise KeyboardInterrupt

    async def stay() -> None:
        async with region.write_lock():
            await leave.wait()
            for memory in ("readable", "writable"):
                monkeypatch.setattr(region._table.cohort, memory, Interrupting())

    async def follow() -> None:
        with pytest.raises(KeyboardInterrupt):
            await hold.__aenter__()

    async with anyio.create_task_group() as group:
        group.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(follow)
        await until(lambda: queued(region))
        leave.set()
    monkeypatch.undo()
    assert idle(region)
    async with hold:
        pass


async def test_a_wait_for_oneself_by_another_region_is_noticed_in_a_busy_queue(region: Region):
    with Region.attach(region.name) as again:

        async def wait() -> None:
            async with again.write_lock():
                pass

        async with anyio.create_task_group() as group, region.write_lock():
            group.start_soon(wait)
            await until(lambda: queued(again))
            with pytest.raises(RuntimeError, match="would wait for itself"):
                await again.write_lock().__aenter__()


async def test_a_block_that_ends_in_another_thread_hands_nothing_over(region: Region):
    hold = region.write_lock()
    view = await hold.__aenter__()

    async def wait() -> None:
        async with region.write_lock():
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until(lambda: queued(region))
        await anyio.to_thread.run_sync(hold.__aexit__, None, None, None)
        assert hold.view is view
        assert queued(region) == 1
        await hold.__aexit__(None, None, None)
