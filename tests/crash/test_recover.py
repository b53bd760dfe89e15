"""A write lock that recovers: what makes the region sound again, and what does not."""

import functools
import gc
import os
import signal
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from cohorts import queued
from dying import is_sound, is_sound_elsewhere, story, writer_dies
from entrances import enter_async
from rivals import Rival
from waits import until

from shm_async import Hold, LockTimeoutError, OwnerDiedError, Region

# ---- recover -----------------------------------------------------------------------------------


async def test_a_recovering_block_that_ends_cleanly_makes_the_region_sound(region: Region):
    for mode in ("async", "with"):
        writer_dies(region)
        hold = region.write_lock(recover=True)
        if mode == "async":
            async with hold as view:
                assert hold.owner_died is True
                assert view[0] == 1
        else:
            with hold as view:
                assert hold.owner_died is True
                assert view[0] == 1
        assert region.generation % 2 == 0
        assert await is_sound_elsewhere(region)
        with hold:  # the same hold once more
            assert hold.owner_died is False


async def test_nobody_else_hears_that_an_owner_died(region: Region):
    for hold in (region.read_lock(), region.write_lock(), region.write_lock(recover=True)):
        async with hold:
            assert hold.owner_died is False
        with hold:
            assert hold.owner_died is False


async def leave_by_error(hold: Hold) -> None:
    with pytest.raises(ZeroDivisionError):
        async with hold:
            raise ZeroDivisionError


async def leave_by_error_in_a_thread(hold: Hold) -> None:
    with pytest.raises(ZeroDivisionError):
        with hold:
            raise ZeroDivisionError


async def leave_by_cancel(hold: Hold) -> None:
    with anyio.CancelScope() as scope:
        async with hold:
            scope.cancel()
            await anyio.sleep(1)


async def leave_by_garbage(hold: Hold) -> None:
    await hold.acquire()


@pytest.mark.parametrize(
    "leave", [leave_by_error, leave_by_error_in_a_thread, leave_by_cancel, leave_by_garbage]
)
async def test_a_recovering_block_that_does_not_end_cleanly_leaves_the_region_unsound(
    region: Region, leave: Callable[[Hold], Awaitable[None]]
):
    pid = writer_dies(region)
    if leave is leave_by_garbage:
        with pytest.warns(ResourceWarning, match="dropped while held"):
            await leave(region.write_lock(recover=True))
            gc.collect()
    else:
        await leave(region.write_lock(recover=True))
    assert story(region).pid == pid  # still the one who died, not we
    hold = region.write_lock(recover=True)
    async with hold:
        assert hold.owner_died is True
    assert await is_sound_elsewhere(region)


async def test_release_and_downgrade_are_clean_ends(region: Region):
    hold = region.write_lock(recover=True)
    for enter in (hold.acquire_blocking, hold.acquire_nowait, None):
        writer_dies(region)
        _ = enter() if enter else await hold.acquire()
        assert hold.owner_died is True
        hold.release()
        assert await is_sound_elsewhere(region)
    writer_dies(region)
    with pytest.raises(ZeroDivisionError):
        async with hold:
            hold.downgrade()
            assert await is_sound_elsewhere(region)
            raise ZeroDivisionError
    assert await is_sound_elsewhere(region)


async def test_only_its_loops_thread_can_end_a_recovery(region: Region):
    writer_dies(region)
    hold = region.write_lock(recover=True)
    with pytest.raises(ZeroDivisionError):
        async with hold:
            with pytest.raises(RuntimeError, match="release it in its thread"):
                await anyio.to_thread.run_sync(hold.release)
            raise ZeroDivisionError
    assert not await is_sound_elsewhere(region)


def test_a_recoverer_who_dies_is_the_next_dead_owner(region: Region):
    first = writer_dies(region)
    if (child := os.fork()) == 0:
        with region.write_lock(recover=True):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert story(region).pid == child != first


def test_a_child_that_leaves_the_block_makes_nothing_sound(region: Region):
    writer_dies(region)
    with pytest.raises(ZeroDivisionError):
        with region.write_lock(recover=True):
            if child := os.fork():
                os.waitpid(child, 0)
                assert region.generation % 2 == 1
                raise ZeroDivisionError
        os._exit(0)  # the child: that was a clean end
    assert not is_sound(region)


def test_a_childs_clean_end_is_nobodys(region: Region):
    writer_dies(region)
    hold = region.write_lock(recover=True)
    hold.acquire_blocking()
    if (child := os.fork()) == 0:
        try:
            hold.release()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert region.generation % 2 == 1
    hold.release()
    assert is_sound(region)


async def test_a_failed_recovery_is_told_to_those_who_wait_here(region: Region):
    pid = writer_dies(region)
    heard: list[object] = []

    async def want(kind: str, **how: bool) -> None:
        hold = getattr(region, kind)(**how)
        try:
            async with hold:
                heard.append((kind, hold.owner_died))
        except OwnerDiedError as error:
            heard.append((kind, error.pid))

    async with anyio.create_task_group() as group:
        with pytest.raises(ZeroDivisionError):
            async with region.write_lock(recover=True):
                waiting = 0
                for kind, how in (
                    ("write_lock", {}),
                    ("read_lock", {}),
                    ("read_lock", {}),
                    ("write_lock", {"recover": True}),
                    ("read_lock", {}),
                    ("write_lock", {}),
                ):
                    group.start_soon(functools.partial(want, kind, **how))
                    waiting += 1
                    await until(lambda: queued(region) == waiting)  # noqa: B023  # at once
                raise ZeroDivisionError
    told = [each for each in heard if each[1] == pid]
    assert sorted(told) == [("read_lock", pid)] * 2 + [("write_lock", pid)]
    assert [each for each in heard if each not in told] == [
        ("write_lock", True),
        ("read_lock", False),
        ("write_lock", False),
    ]
    assert await is_sound_elsewhere(region)
    figures = region.statistics()
    assert (figures.writes, figures.reads, figures.cancelled) == (3, 1, 3)


async def test_a_cancelled_recovery_that_was_granted_leaves_the_region_unsound(
    region: Region, rival: Rival
):
    writer_dies(region)

    async def recover() -> None:
        async with region.write_lock(recover=True):
            raise AssertionError("it was cancelled before")

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        group.start_soon(recover)
        await until(lambda: queued(region))
        rival.do("unlock")
        group.cancel_scope.cancel()
    assert not await is_sound_elsewhere(region)


def test_a_recovery_that_is_refused_changes_nothing(region: Region, other: Region):
    writer_dies(region)
    with region.write_lock(recover=True):
        with pytest.raises(LockTimeoutError):
            other.write_lock(recover=True, timeout=0.01).acquire_blocking()
    assert is_sound(region)


# ---- ignore ------------------------------------------------------------------------------------


async def test_ignored_deaths_are_told_to_nobody_and_end_with_the_next_write(
    region: Region, rival: Rival
):
    with Region.attach(region.name, on_owner_death="ignore") as careless:
        writer_dies(region)
        generation = region.generation
        with careless.read_lock() as view:
            assert view[0] == 1
        async with careless.read_lock() as view:
            assert view[0] == 1
        assert region.generation == generation
        async with careless.write_lock():
            assert region.generation == generation + 2
        assert region.generation == generation + 3
        assert await is_sound_elsewhere(region)
        writer_dies(region)
        rival.do("exclusive")
        async with anyio.create_task_group() as group:
            group.start_soon(enter_async, careless.read_lock())
            group.start_soon(enter_async, careless.write_lock())
            await until(lambda: queued(careless) == 2)
            rival.do("unlock")
        assert await is_sound_elsewhere(region)
        writer_dies(region)
        hold = careless.read_lock()
        async with hold:
            assert await hold.upgrade() is True
        assert await is_sound_elsewhere(region)
        writer_dies(region)
        hold = careless.write_lock(recover=True)  # who asks is told all the same
        with hold:
            assert hold.owner_died is True
