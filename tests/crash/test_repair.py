"""A function of the user repairs what a dead writer left."""

import functools
from collections.abc import Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import pytest
from cohorts import queued
from dying import a_writer_dies_on_the_way, is_sound, is_sound_elsewhere, story, writer_dies
from entrances import WAYS, acquire_nowait, acquire_nowait_in_a_thread
from rivals import Rival
from waits import until

from shm_async import Hold, LockTimeoutError, OwnerDiedError, Region, WouldBlockError
from shm_async._lock.cohort import Cohort
from shm_async._lock.recovery import RepairHold
from shm_async._lock.seat import Seat
from shm_async._lock.table import LockTable


class Repair:
    """Counts its calls and stores 7 where the dead one stored 1."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self, hold: Hold) -> None:
        assert hold.owner_died
        assert hold.view[0] in (1, 7)
        self.calls += 1
        hold.view[0] = 7
        if self.error is not None:
            raise self.error


@pytest.fixture
def repair() -> Repair:
    return Repair()


@pytest.fixture
def mended(region: Region, repair: Repair) -> Iterator[Region]:
    """An attachment that repairs."""
    with Region.attach(region.name, on_owner_death=repair) as mended:
        yield mended


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
async def test_whoever_finds_a_dead_writer_has_it_repaired_and_goes_on(
    region: Region,
    mended: Region,
    repair: Repair,
    way: Callable[[Hold], Awaitable[None]],
    kind: str,
):
    writer_dies(region)
    hold = getattr(mended, kind)()
    await way(hold)
    if hold._view is not None:
        assert hold.view[0] == 7
        assert hold.view.readonly == (kind == "read_lock")
        hold.release()
    assert repair.calls == 1
    assert await is_sound_elsewhere(region)


async def test_many_who_find_it_at_once_have_it_repaired_once(
    region: Region, mended: Region, repair: Repair, rival: Rival
):
    seen = []

    async def read() -> None:
        async with mended.read_lock() as view:
            seen.append(view[0])

    async def write() -> None:
        async with mended.write_lock() as view:
            seen.append(view[0])

    def read_here() -> None:
        with mended.read_lock() as view:
            seen.append(view[0])

    writer_dies(region)
    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(read)
            group.start_soon(write)
            group.start_soon(anyio.to_thread.run_sync, read_here)
        await until(lambda: queued(mended) == 6)
        rival.do("unlock")
    assert seen == [7] * 9
    assert repair.calls == 1
    assert await is_sound_elsewhere(region)


async def test_a_repair_that_fails_raises_and_leaves_the_region_unsound(
    region: Region, mended: Region, repair: Repair
):
    pid = writer_dies(region)
    repair.error = ZeroDivisionError("no idea")
    with pytest.raises(ZeroDivisionError, match="no idea") as caught:
        async with mended.read_lock():
            pass
    assert isinstance(caught.value.__context__, OwnerDiedError)
    with pytest.raises(ZeroDivisionError):
        with mended.write_lock():
            pass
    assert story(region).pid == pid
    repair.error = None
    async with mended.read_lock() as view:
        assert view[0] == 7
    assert repair.calls == 3
    assert await is_sound_elsewhere(region)


async def test_an_upgrade_repairs_what_somebody_left_on_the_way(
    region: Region, mended: Region, repair: Repair, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = mended.read_lock()
    async with hold:
        assert rival.do("shared") == "done"
        a_writer_dies_on_the_way(monkeypatch, Cohort, "enter", region, rival)
        assert await hold.upgrade() is False
        assert hold.view[0] == 7
        hold.view[0] = 8
    assert repair.calls == 1
    assert await is_sound_elsewhere(region)


def test_a_blocking_upgrade_repairs_what_somebody_left_on_the_way(
    region: Region, mended: Region, repair: Repair, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = mended.read_lock()
    with hold:
        assert rival.do("shared") == "done"
        a_writer_dies_on_the_way(monkeypatch, Seat, "wait", region, rival)
        assert hold.upgrade_blocking(timeout=10) is False
        assert hold.view[0] == 7
    assert repair.calls == 1
    assert is_sound(region)


def test_a_repair_may_release_or_downgrade_its_hold(region: Region):
    for end in ("release", "downgrade"):
        writer_dies(region)
        with Region.attach(region.name, on_owner_death=lambda hold: getattr(hold, end)()) as mended:  # noqa: B023  # used at once
            with mended.read_lock():
                pass
        assert is_sound(region)


def test_a_repair_that_wants_another_lock_is_refused(region: Region):
    def wants_more(_hold: Hold) -> None:
        with mended.read_lock():
            pass

    writer_dies(region)
    with Region.attach(region.name, on_owner_death=wants_more) as mended:
        with pytest.raises(RuntimeError, match="wait for it for ever"):
            mended.read_lock().acquire_blocking()
    assert not is_sound(region)


@pytest.mark.parametrize("way", [acquire_nowait, acquire_nowait_in_a_thread])
async def test_who_does_not_wait_does_not_wait_for_a_repair(
    region: Region,
    mended: Region,
    repair: Repair,
    rival: Rival,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Hold], Awaitable[None]],
):
    """Somebody takes the lock between the finding and the repair."""
    repair_hold = LockTable._repair_hold

    def too_late(table: LockTable) -> RepairHold:
        rival.do("exclusive")
        return repair_hold(table)

    writer_dies(region)
    monkeypatch.setattr(LockTable, "_repair_hold", too_late)
    with pytest.raises(WouldBlockError):
        await way(mended.read_lock())
    assert repair.calls == 0


def test_a_repair_counts_towards_the_timeout(
    region: Region, mended: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    repair_hold = LockTable._repair_hold

    def too_late(table: LockTable) -> RepairHold:
        rival.do("exclusive")
        return repair_hold(table)

    writer_dies(region)
    monkeypatch.setattr(LockTable, "_repair_hold", too_late)
    with pytest.raises(LockTimeoutError):
        mended.read_lock(timeout=0.05).acquire_blocking()


def test_create_and_open_take_a_repair_too(name: str, repair: Repair):
    with Region.create(name, 8, on_owner_death=repair) as region:
        writer_dies(region)
        with region.read_lock() as view:
            assert view[0] == 7
    with Region.open(name, 8, on_owner_death=repair) as region:
        writer_dies(region)
        with region.read_lock() as view:
            assert view[0] == 7
    assert repair.calls == 2


async def too_late(_hold: Hold) -> None: ...


class AsyncRepair:
    async def __call__(self, _hold: Hold) -> None: ...


@pytest.mark.parametrize(
    ("policy", "error", "says"),
    [
        ("Raise", ValueError, "'Raise'.* 'raise', 'ignore', or a function"),
        (None, TypeError, "NoneType.* 'raise', 'ignore', or a function"),
        (7, TypeError, "int"),
        (too_late, TypeError, "plain function"),
        (functools.partial(too_late), TypeError, "plain function"),
        (AsyncRepair(), TypeError, "plain function"),
    ],
)
def test_what_is_no_policy_is_refused_at_once(
    region: Region, policy: object, error: type[Exception], says: str
):
    for make in (Region.attach, Region.open, Region.create):
        with pytest.raises(error, match=says):
            make(region.name, 8, on_owner_death=policy)


def test_a_readonly_attachment_takes_no_repair(region: Region, repair: Repair):
    with pytest.raises(ValueError, match="cannot repair"):
        Region.attach(region.name, readonly=True, on_owner_death=repair)
    Region.attach(region.name, readonly=True, on_owner_death="ignore").close()


def test_a_repair_that_turns_out_to_be_a_coroutine_has_repaired_nothing(region: Region):
    writer_dies(region)
    with Region.attach(region.name, on_owner_death=lambda hold: too_late(hold)) as mended:
        with pytest.raises(TypeError, match="awaitable"):
            mended.read_lock().acquire_blocking()
    assert not is_sound(region)
