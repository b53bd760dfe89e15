"""What comes between two steps of a cohort: an exception such as Ctrl-C, or a signal handler.

CPython looks for signals when a call has returned. So each call into C, and each look at the
clock, is followed by it once.
"""

import asyncio
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from cohorts import idle, queued
from rivals import Rival
from waits import until

from shm_async import Region, WouldBlockError
from shm_async._lock import cohort, fast, members, request

MODULES = (cohort, fast, members, request)


class Interrupted(BaseException):
    """As KeyboardInterrupt, but the test's own."""


class Calls:
    """Counts the calls into C, and does something right after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, then: Callable[[], None]):
        self.left, self.then = number, then
        for module in MODULES:
            for name, call in vars(module).copy().items():
                if name.startswith(("lock_", "waiter_")) or name == "monotonic":
                    monkeypatch.setattr(module, name, self.counted(call))

    def counted(self, call: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object) -> object:
            result = call(*arguments)
            self.left -= 1
            if self.left == 0:
                self.then()
            return result

        return counting


def interrupt() -> None:
    raise Interrupted


async def use(region: Region, kinds: str, calls: Callable[[], Calls]) -> int:
    """Tasks that all want the lock, of these kinds. Return how many calls were left to count."""
    async with region.write_lock():
        pass  # the cohort is there from now on
    caught = []

    async def write() -> None:
        async with region.write_lock():
            await anyio.lowlevel.checkpoint()

    async def read() -> None:
        async with region.read_lock():
            await anyio.lowlevel.checkpoint()

    async def guard(one: Callable[[], object]) -> None:
        try:
            await one()  # type: ignore[misc]
        except Interrupted:
            caught.append(one)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            counting = calls()
            for kind in kinds:
                group.start_soon(guard, write if kind == "w" else read)
    assert len(caught) <= 1
    return counting.left


@pytest.mark.parametrize("kinds", ["www", "rwr", "rrw", "wrw"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_an_exception_after_any_call_strands_nobody(
    kinds: str, monkeypatch: pytest.MonkeyPatch
):
    left, number = 0, 0
    while left <= 0:
        number += 1
        with Region.temporary(8) as region, monkeypatch.context() as patch:

            def calls(patch: pytest.MonkeyPatch = patch, number: int = number) -> Calls:
                return Calls(patch, number, interrupt)

            left = await use(region, kinds, calls)
            patch.undo()
            assert idle(region), number
            assert queued(region) == 0
            with Region.attach(region.name) as other, other.write_lock(timeout=10):
                pass
    assert number > 6


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("number", range(1, 7))
async def test_an_exception_while_a_grant_is_collected_leaves_no_dead_writer(
    region: Region, rival: Rival, number: int, monkeypatch: pytest.MonkeyPatch
):
    """The loop reports it, and the task that waits gets the lock all the same."""
    async with region.write_lock():
        pass
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: reported.append(about))
    assert rival.do("exclusive") == "done"
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(write, region)
            await until(lambda: queued(region))
            Calls(monkeypatch, number, fail)
            assert rival.do("unlock") == "done"
    monkeypatch.undo()
    assert idle(region)
    with Region.attach(region.name) as other, other.write_lock(timeout=10):
        pass


def fail() -> None:
    raise ValueError("a signal handler's")


async def write(region: Region) -> None:
    try:
        async with region.write_lock() as view:
            view[0] = 1
    except ValueError:
        pass


# ---- handlers ------------------------------------------------------------------------------------


@pytest.fixture(params=["read", "write"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], None]]:
    """What to do right before and right after the next attempt to get the lock of a block."""
    todo: dict[str, Callable[[], None]] = {}
    for name in ("lock_try_exclusive", "lock_try_shared"):
        call = getattr(fast, name)

        def attempt(handle: object, call: Callable[[object], int] = call) -> int:
            todo.pop("before", lambda: None)()
            code = call(handle)
            todo.pop("after", lambda: None)()
            return code

        monkeypatch.setattr(fast, name, attempt)
    return todo


async def test_a_handler_that_takes_the_lock_first_keeps_a_block_out(
    region: Region, kind: str, tries: dict[str, Callable[[], None]]
):
    """It looked at the cohort, which was idle, before the handler ran."""
    block = getattr(region, f"{kind}_lock")
    async with block():
        pass
    hold = region.write_lock()
    entered = anyio.Event()

    async def enter() -> None:
        tries["before"] = lambda: hold.acquire_nowait() and None
        async with block():
            entered.set()

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        await until(lambda: queued(region))
        assert not entered.is_set()
        hold.release()
    assert entered.is_set()
    assert idle(region)


async def test_a_handler_finds_the_lock_taken_before_the_block_has_noted_it(
    region: Region, kind: str, tries: dict[str, Callable[[], None]], rival: Rival
):
    block = getattr(region, f"{kind}_lock")
    async with block():
        pass
    refused = []

    def handler() -> None:
        with pytest.raises(WouldBlockError):
            region.write_lock().acquire_nowait()
        refused.append(rival.do("try-exclusive"))

    tries["after"] = handler
    async with block():
        assert rival.do("try-exclusive") == "busy"
    assert refused == ["busy"]
    assert idle(region)
    assert rival.do("try-exclusive") == "done"


async def test_a_handler_that_closes_the_region_leaves_the_block_its_lock(
    region: Region, kind: str, tries: dict[str, Callable[[], None]], rival: Rival
):
    block = getattr(region, f"{kind}_lock")
    async with block():
        pass
    tries["after"] = region.close
    async with block() as view:
        assert view[0] == 0
        assert rival.do("try-exclusive") == "busy"
    assert rival.do("try-exclusive") == "done"


async def test_a_reader_that_leaves_the_lock_to_a_writer_hands_nothing_over(region: Region):
    """The kernel's lock is one for reading: it is asked for another."""
    async with anyio.create_task_group() as group:
        async with region.read_lock():
            group.start_soon(write, region)
            await until(lambda: queued(region))
    told = region.statistics()
    assert (told.hand_overs, told.kernel_requests) == (0, 1)
