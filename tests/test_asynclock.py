"""The cohort: its queue, hand-overs, cancellation, and the ends of loops and regions."""

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter

import anyio
import anyio.lowlevel
import pytest
from conftest import Rival, blocked_in_flock, our_descriptors, our_threads, wait_until

from shm_async import Region, RegionClosedError, RegionSizeError, WouldBlockError, asynclock


async def until(condition) -> None:
    """Let other tasks and the waiting thread go on until it is so."""
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


async def until_blocked() -> None:
    """Until the waiting thread stands in the kernel's queue."""
    await until(lambda: blocked_in_flock(os.getpid()))


def waiting(region: Region) -> int:
    """How many tasks stand in the region's queues."""
    return sum(len(cohort.queue) for cohort in region._cohorts.values())


def asking(region: Region) -> bool:
    """Whether a request to the kernel is under way."""
    return any(cohort.asking for cohort in region._cohorts.values())


def idle(region: Region) -> bool:
    return all(cohort.idle for cohort in region._cohorts.values())


# ---- the fast path -----------------------------------------------------------------


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


# ---- the queue ------------------------------------------------------------------------


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
            await until(lambda n=number: waiting(region) == n + 1)
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
        await until(lambda: waiting(region) == 1)
        group.start_soon(enter, "r")
        await until(lambda: waiting(region) == 2)
    assert order == ["w", "r"]


async def test_hand_overs_are_bounded_so_that_others_get_in(
    region: Region, rival: Rival, monkeypatch
):
    """A foreign flock user gets its turn although the queue never runs dry."""
    monkeypatch.setattr(asynclock, "MAX_PASSES", 4)
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
        await until(lambda: waiting(region) == 1000)
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


# ---- nesting and self-deadlock ----------------------------------------------------------


async def test_a_task_may_read_again_while_it_reads(region: Region):
    async with region.read_lock() as outer, region.read_lock() as inner:
        assert outer[0] == inner[0] == 0


async def test_a_nested_read_works_with_a_writer_queued_and_long_after(region: Region):
    async def write() -> None:
        async with region.write_lock() as view:
            view[0] += 1

    async with anyio.create_task_group() as group, region.read_lock():
        group.start_soon(write)
        await until(lambda: waiting(region) == 1)
        await anyio.sleep(2 * asynclock.MAX_KEEP)
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


# ---- cancellation -------------------------------------------------------------------------


async def test_a_cancelled_wait_holds_nothing_and_leaves_nothing(region: Region, rival: Rival):
    async with region.write_lock():
        pass
    rival.do("exclusive")
    with anyio.move_on_after(0.02) as scope:
        async with region.write_lock():
            pytest.fail("the rival has it")
    assert scope.cancelled_caught
    await until(lambda: idle(region))
    assert not blocked_in_flock(os.getpid())
    await until(lambda: not our_threads())
    rival.do("unlock")
    assert rival.do("try-exclusive") == "done"


async def test_cancelling_one_waiter_does_not_disturb_the_others(region: Region, rival: Rival):
    log: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(6)]

    async def wait(number: int) -> None:
        with scopes[number]:
            async with region.write_lock():
                log.append(number)

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(wait, number)
            await until(lambda n=number: waiting(region) == n + 1)
        for number in (0, 2, 5):
            scopes[number].cancel()
        await until(lambda: waiting(region) == 3)
        rival.do("unlock")
    assert log == [1, 3, 4]


async def test_readers_behind_a_cancelled_writer_join_the_readers(region: Region):
    inside = anyio.Event()
    scope = anyio.CancelScope()

    async def write() -> None:
        with scope:
            await region.write_lock().acquire()

    async def read() -> None:
        async with region.read_lock():
            inside.set()

    async with anyio.create_task_group() as group, region.read_lock():
        group.start_soon(write)
        await until(lambda: waiting(region) == 1)
        group.start_soon(read)
        await until(lambda: waiting(region) == 2)
        scope.cancel()
        with anyio.fail_after(5):
            await inside.wait()


async def test_a_new_waiter_while_a_request_is_called_off(region: Region, rival: Rival):
    rival.do("exclusive")
    for _ in range(50):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(region.write_lock().acquire)
                await until(lambda: asking(region))
                scope.cancel()
        # the request may still be on its way out
        with anyio.move_on_after(0.001):
            async with region.read_lock():
                pytest.fail("the rival has it")
    rival.do("unlock")
    with anyio.fail_after(5):
        async with region.write_lock() as view:
            view[0] = 1


@pytest.mark.timeout(120)
async def test_thousands_of_cancels_beside_a_busy_rival_lose_nothing(region: Region):
    """Cancels hit every stage of a wait; a second region of this process holds on and off."""
    generator = random.Random(7)
    stop = False
    entered = cancelled = 0

    async def be_in_the_way() -> None:
        with Region.attach(region.name) as other:
            while not stop:
                async with other.write_lock() as view:
                    view[1] += 1
                    await anyio.sleep(generator.random() / 2000)
                await anyio.sleep(generator.random() / 2000)

    async def attempt() -> None:
        nonlocal entered, cancelled
        for _ in range(150):
            with anyio.move_on_after(generator.random() / 500) as scope:
                async with region.write_lock() as view:
                    seen = view[0]
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                    view[0] = seen + 1
                    entered += 1
            cancelled += scope.cancelled_caught

    async with anyio.create_task_group() as outer:
        outer.start_soon(be_in_the_way)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(attempt)
        stop = True
    assert region.buffer[0] == entered
    assert entered > 10
    assert cancelled > 100
    await until(lambda: idle(region))
    async with region.write_lock():
        pass


# ---- truncated -------------------------------------------------------------------------------


async def test_an_object_truncated_while_we_wait_is_told_at_the_grant(region: Region, rival: Rival):
    rival.do("exclusive")
    async with anyio.create_task_group() as group:

        async def wait(hold) -> None:
            with pytest.raises(RegionSizeError, match="truncated"):
                await hold.acquire()

        for hold in (region.write_lock(), region.read_lock(), region.write_lock()):
            group.start_soon(wait, hold)
        await until(lambda: waiting(region) == 3)
        rival.do("truncate 4096")
        rival.do("unlock")
    assert rival.do("try-exclusive") == "done"


async def test_a_truncated_object_is_told_without_waiting_too(region: Region, rival: Rival):
    rival.do("truncate 0")
    for hold in (region.write_lock(), region.read_lock()):
        with pytest.raises(RegionSizeError):
            await hold.acquire()
        with pytest.raises(RegionSizeError):
            hold.acquire_nowait()
        with pytest.raises(RegionSizeError):
            hold.acquire_blocking()
    assert rival.do("try-exclusive") == "done"


# ---- the end of regions and loops --------------------------------------------------------------


async def test_closing_wakes_all_waiters(region: Region, rival: Rival):
    rival.do("exclusive")
    ended = 0

    async def wait() -> None:
        nonlocal ended
        with pytest.raises(RegionClosedError):
            await region.write_lock().acquire()
        ended += 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
        await until(lambda: waiting(region) == 5)
        region.close()
    assert ended == 5
    assert our_threads() == set()


async def test_closing_in_a_block_keeps_the_lock_until_its_end(region: Region, rival: Rival):
    async with region.write_lock() as view:
        region.close()
        view[0] = 1
        assert rival.do("try-shared") == "busy"
    assert rival.do("try-exclusive") == "done"


async def test_closing_from_another_thread_wakes_waiters_too(region: Region, rival: Rival):
    rival.do("exclusive")

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, close_soon, region)
        with pytest.raises(RegionClosedError):
            await region.write_lock().acquire()


def close_soon(region: Region) -> None:
    wait_until(lambda: blocked_in_flock(os.getpid()))
    region.close()


def test_one_region_serves_one_loop_after_the_other(region: Region, anyio_backend):
    backend, options = anyio_backend

    async def main() -> None:
        async with region.write_lock() as view:
            view[0] += 1
        with anyio.move_on_after(0.01):
            async with region.write_lock():
                await region.write_lock().acquire()

    async def contended() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(increment)

    async def increment() -> None:
        async with region.write_lock() as view:
            seen = view[0]
            await anyio.sleep(0.001)
            view[0] = seen + 1

    before = len(our_descriptors())
    for _ in range(20):
        with pytest.raises(RuntimeError, match="wait for itself"):
            anyio.run(main, backend=backend, backend_options=options)
        anyio.run(contended, backend=backend, backend_options=options)
    assert region.buffer[0] == 20 * 6
    assert len(our_descriptors()) <= before + 4


@pytest.mark.parametrize("close_loop", [False, True])
@pytest.mark.parametrize("close_region", [False, True])
def test_a_grant_that_a_stopped_loop_does_not_collect_is_given_back(
    region: Region, rival: Rival, close_loop: bool, close_region: bool
):
    loop = asyncio.new_event_loop()
    tasks = []

    def run() -> None:
        tasks.append(loop.create_task(region.write_lock().acquire()))
        loop.run_until_complete(asyncio.sleep(0.02))
        if close_loop:
            loop.close()

    rival.do("exclusive")
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    tasks[0]._log_destroy_pending = False
    if close_region:
        region.close()
    rival.do("unlock")
    wait_until(lambda: rival.do("try-exclusive") == "done")
    rival.do("unlock")
    loop.close()


def test_a_loop_that_ends_with_waiters_leaves_nothing_held(region: Region, rival: Rival):
    """Tasks that are never cancelled, only dropped with their loop."""
    rival.do("exclusive")
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(region.write_lock().acquire()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    rival.do("unlock")
    for task in tasks:
        task._log_destroy_pending = False
    del tasks, task
    gc.collect()

    async def main() -> None:
        async with region.write_lock() as view:
            view[0] += 1

    asyncio.run(main())
    assert region.buffer[0] == 1
    assert rival.do("try-exclusive") == "done"
