"""One region, and the registries behind it, used by several threads at the same moment.

These races exist with the GIL, too, as threads switch between any two steps. Without the GIL they
come sooner.
"""

import asyncio
import contextlib
import errno
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rivals import Rival

from shm_async import Region, RegionClosedError, RegionReplacedError, _lifetime
from shm_async._lock import table
from shm_async._memory.posix import PosixSegment

THREADS, ROUNDS = 4, 60


pytestmark = pytest.mark.usefixtures("threads_switch_all_the_time")


@pytest.fixture(autouse=True)
def _nothing_refers_to_itself() -> Iterator[None]:
    yield
    gc.collect()  # an exception that ends asyncio.run refers to itself, and to hubs and locks


def together(*works: Callable[[], None]) -> list[str]:
    """Call each in a thread of its own, all from one moment on. Return what went wrong."""
    errors: list[str] = []
    begin = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        begin.wait()
        try:
            work()
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=run, args=[work], daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "stuck"
    return errors


def assert_over(region: Region) -> None:
    assert region.closed
    with pytest.raises(RegionClosedError):
        write(region)
    asyncio.run(refused(region))


async def refused(region: Region) -> None:
    with pytest.raises(RegionClosedError):
        await write_async(region)


def write(region: Region) -> None:
    with region.write_lock() as view:
        view[0] += 1


async def write_async(region: Region) -> None:
    async with region.write_lock() as view:
        view[0] += 1


async def watch(region: Region) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(region.wait_changed(), 0.0001)


def test_loops_come_and_go_while_other_threads_list_them(region: Region):
    over = threading.Event()

    def come_and_go() -> None:
        try:
            for _ in range(ROUNDS):
                asyncio.run(watch(region))
                asyncio.run(write_async(region))
        finally:
            over.set()

    def look() -> None:
        while not over.is_set():
            region.filenos()
            region.statistics()

    assert together(come_and_go, come_and_go, come_and_go, look) == []
    assert region.buffer[0] == 3 * ROUNDS


@pytest.mark.parametrize(
    "come",
    [
        write,
        lambda region: asyncio.run(write_async(region)),
        lambda region: asyncio.run(watch(region)),
    ],
    ids=["with", "async with", "wait_changed"],
)
def test_close_beside_those_who_come_first(name: str, come: Callable[[Region], None]):
    """Each of them gets in, or learns that the region is closed; and nobody gets in later."""
    with Region.create(name, 8, dtype="uint64"):
        for _ in range(ROUNDS):
            region = Region.attach(name)

            def enter(region: Region = region) -> None:
                with contextlib.suppress(RegionClosedError):
                    come(region)

            assert together(enter, enter, region.close, enter) == []
            assert_over(region)


def in_another_thread(work: Callable[[], None]) -> None:
    assert together(work) == []


def test_a_loop_that_comes_when_close_has_nearly_ended(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    close_locks = table.close_locks

    def then_come(*arguments: Any) -> None:
        close_locks(*arguments)
        in_another_thread(lambda: asyncio.run(refused(region)))

    monkeypatch.setattr(table, "close_locks", then_come)
    region.close()


@pytest.mark.parametrize("number", ["closed", "another object's"])
def test_a_look_at_the_generation_beside_close(
    region: Region, monkeypatch: pytest.MonkeyPatch, number: str
):
    """Whatever has the number of the closed descriptor by then, the answer is "closed"."""

    def close_then_look(_self: object, _mapped: int) -> bool:
        monkeypatch.undo()
        in_another_thread(region.close)
        if number == "closed":
            raise OSError(errno.EBADF, "closed")
        return False

    monkeypatch.setattr(PosixSegment, "whole", close_then_look)
    with pytest.raises(RegionClosedError):
        region.generation  # noqa: B018


def test_close_while_another_thread_is_about_to_use_the_replacement(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    opener_of = _lifetime.opener_of

    def then_close(*arguments: Any) -> object:
        opener = opener_of(*arguments)
        in_another_thread(region.close)
        return opener

    with Region.create(name, 8, dtype="uint64") as origin:
        region = Region.attach(name, follow=True)
        origin.resize(9)
        monkeypatch.setattr(_lifetime, "opener_of", then_close)
        with pytest.raises(RegionClosedError):
            write(region)
        assert_over(region)


def test_close_beside_a_follow(name: str):
    """The thread that attaches to the replacement does not open what another one has closed."""
    with Region.create(name, 8, dtype="uint64") as origin:
        for number in range(ROUNDS):
            region = Region.attach(name, follow=True)
            origin.resize(8 + number % 2)

            def enter(region: Region = region) -> None:
                with contextlib.suppress(RegionClosedError, RegionReplacedError):
                    write(region)

            assert together(enter, region.close) == []
            assert_over(region)


def test_a_view_is_there_or_refused(region: Region):
    """Also where another thread releases the hold between the look at the view and its return."""
    hold = region.write_lock()
    over = threading.Event()

    def use() -> None:
        try:
            for _ in range(ROUNDS * 100):
                with hold:
                    pass
        finally:
            over.set()

    def look() -> None:
        while not over.is_set():
            with contextlib.suppress(RuntimeError):
                assert hold.view is not None

    assert together(use, look, look) == []


def test_attachments_of_one_object_that_come_and_go(region: Region, rival: Rival):
    """Those of one process know of each other, in order to notice who would wait for himself."""

    def come_and_go() -> None:
        for _ in range(ROUNDS):
            with Region.attach(region.name) as mine:
                write(mine)
                asyncio.run(write_async(mine))

    def transact() -> None:
        for _ in range(2 * ROUNDS):
            with region.transaction() as view:
                view[0] += 1

    assert together(*[come_and_go] * (THREADS - 1), transact) == []
    assert region.buffer[0] == 2 * ROUNDS * THREADS
    assert rival.do("try-exclusive") == "done"
