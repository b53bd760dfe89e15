"""When a writer dies: who is told, who may go in all the same, and what makes it sound again."""

import functools
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import pytest
from conftest import Rival, blocked_in_flock, wait_until, writer_dies

from shm_async import Hold, LockTimeoutError, OwnerDiedError, Region, WouldBlockError
from shm_async.asynclock import Cohort
from shm_async.control import process_identity, start_of
from shm_async.synclock import Seat


@pytest.fixture
def other(region: Region) -> Iterator[Region]:
    """A second attachment, which the kernel keeps apart from the first as if in another process."""
    with Region.attach(region.name) as other:
        yield other


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.001)


def queued(region: Region) -> int:
    return sum(len(cohort.queue) for cohort in region._cohorts.values())


def is_sound(region: Region) -> bool:
    """Whether a lock is granted; nobody has it."""
    with Region.attach(region.name) as other:
        try:
            with other.read_lock(timeout=5):
                return True
        except OwnerDiedError:
            return False


# ---- who is told -----------------------------------------------------------------------


async def enter_async(hold: Hold) -> None:
    async with hold:
        pass


async def enter(hold: Hold) -> None:
    with hold:
        pass


async def acquire(hold: Hold) -> None:
    await hold.acquire()


async def acquire_blocking(hold: Hold) -> None:
    hold.acquire_blocking()


async def acquire_nowait(hold: Hold) -> None:
    hold.acquire_nowait()


async def acquire_nowait_in_a_thread(hold: Hold) -> None:
    await anyio.to_thread.run_sync(hold.acquire_nowait)


WAYS = [enter_async, enter, acquire, acquire_blocking, acquire_nowait, acquire_nowait_in_a_thread]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
async def test_whoever_takes_a_free_lock_is_told_of_a_dead_writer_and_holds_nothing(
    region: Region, rival: Rival, way: Callable[[Hold], Awaitable[None]], kind: str
):
    pid = writer_dies(region)
    for _ in range(2):  # to be told changes nothing
        with pytest.raises(OwnerDiedError, match=f"process {pid} died inside; take") as caught:
            await way(getattr(region, kind)())
        assert caught.value.pid == pid
        assert caught.value.start > 0
        assert rival.do("try-exclusive") == "done"
        rival.do("unlock")
    assert region.generation % 2 == 1
    figures = region.statistics()
    assert (figures.reads, figures.writes) == (0, 0)


@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
async def test_all_who_wait_in_a_loop_are_told(region: Region, rival: Rival, kind: str):
    pid = writer_dies(region)
    told = []

    async def want() -> None:
        try:
            async with getattr(region, kind)():
                raise AssertionError("it may not go in")
        except OwnerDiedError as error:
            told.append(error.pid)

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(want)
        await until(lambda: queued(region) == 3)
        rival.do("unlock")
    assert told == [pid] * 3
    assert rival.do("try-exclusive") == "done"
    assert rival.do("gate") == "done"
    figures = region.statistics()
    assert (figures.reads, figures.writes, figures.cancelled) == (0, 0, 3)


@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
def test_a_thread_that_waits_is_told(region: Region, rival: Rival, kind: str):
    pid = writer_dies(region)
    told = []

    def want() -> None:
        with pytest.raises(OwnerDiedError) as caught:
            getattr(region, kind)().acquire_blocking()
        told.append(caught.value.pid)

    rival.do("exclusive")
    thread = threading.Thread(target=want)
    thread.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    rival.do("unlock")
    thread.join()
    assert told == [pid]
    assert rival.do("try-exclusive") == "done"
    assert rival.do("gate") == "done"


def test_a_readonly_attachment_is_told(region: Region):
    pid = writer_dies(region)
    with Region.attach(region.name, readonly=True) as reader:
        with pytest.raises(OwnerDiedError, match=str(pid)):
            reader.read_lock().acquire_blocking()


def a_writer_dies_on_the_way(
    monkeypatch: pytest.MonkeyPatch, where: type, wait: str, region: Region, rival: Rival
) -> list[int]:
    """An upgrade has lost its read lock to the rival's, and is about to wait: a writer is faster.

    It gets in as the rival leaves, and dies inside; its pid is in the list then.
    """
    go_on = getattr(where, wait)
    pids = []

    def instead(*arguments: object) -> object:
        monkeypatch.undo()
        assert rival.do("unlock") == "done"
        pids.append(writer_dies(region))
        return go_on(*arguments)

    monkeypatch.setattr(where, wait, instead)
    return pids


async def test_an_upgrade_is_told_of_one_who_died_on_the_way(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = region.read_lock()
    async with hold:
        assert rival.do("shared") == "done"
        pids = a_writer_dies_on_the_way(monkeypatch, Cohort, "enter", region, rival)
        with pytest.raises(OwnerDiedError) as caught:
            await hold.upgrade()
        assert [caught.value.pid] == pids
        with pytest.raises(RuntimeError, match="not held"):
            _ = hold.view
    assert rival.do("try-exclusive") == "done"


def test_a_blocking_upgrade_is_told_of_one_who_died_on_the_way(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = region.read_lock()
    with hold:
        assert rival.do("shared") == "done"
        pids = a_writer_dies_on_the_way(monkeypatch, Seat, "wait", region, rival)
        with pytest.raises(OwnerDiedError) as caught:
            hold.upgrade_blocking()
        assert [caught.value.pid] == pids
    assert rival.do("try-exclusive") == "done"


async def test_an_exception_is_no_death(region: Region):
    with pytest.raises(ZeroDivisionError):
        with region.write_lock():
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with region.write_lock():
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with region.write_lock():
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert is_sound(region)


def test_a_reader_who_dies_is_no_death(region: Region):
    if (child := os.fork()) == 0:
        with region.read_lock():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_sound(region)


def test_a_raw_region_cannot_tell(name: str):
    with Region.create(name, 8, layout="raw") as region:
        writer_dies(region)
        with region.write_lock(recover=True) as view:
            assert view[0] == 1


# ---- who it was ------------------------------------------------------------------------


def pretend(region: Region, pid: int, start: int) -> None:
    """Change who the last writer was."""
    control = region._now().control()
    control.writer_pid, control.writer_start = pid, start


def story(region: Region) -> OwnerDiedError:
    with pytest.raises(OwnerDiedError) as caught:
        region.read_lock().acquire_blocking()
    return caught.value


def test_it_is_told_who_died(region: Region):
    pid, start = process_identity()
    dead = writer_dies(region)
    assert dead != pid
    error = story(region)
    assert error.pid == dead
    assert error.start >= start
    pretend(region, pid, start)
    assert "is alive, but its event loop ended inside" in str(story(region))
    pretend(region, pid, start - 1)
    assert "a later process has its pid now" in str(story(region))
    pretend(region, pid, 0)
    assert "died inside; take" in str(story(region))
    pretend(region, 2**32 - 1, 2**64 - 1)
    assert story(region).pid == 2**32 - 1


def test_a_zombie_is_dead(region: Region):
    pid = writer_dies(region, reap=False)
    assert start_of(pid) is None
    assert f"process {pid} died inside; take" in str(story(region))
    os.waitpid(pid, 0)


# ---- recover ---------------------------------------------------------------------------


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
        assert is_sound(region)
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
    assert is_sound(region)


async def test_release_and_downgrade_are_clean_ends(region: Region):
    hold = region.write_lock(recover=True)
    for enter in (hold.acquire_blocking, hold.acquire_nowait, None):
        writer_dies(region)
        _ = enter() if enter else await hold.acquire()
        assert hold.owner_died is True
        hold.release()
        assert is_sound(region)
    writer_dies(region)
    with pytest.raises(ZeroDivisionError):
        async with hold:
            hold.downgrade()
            assert is_sound(region)
            raise ZeroDivisionError
    assert is_sound(region)


async def test_only_its_loops_thread_can_end_a_recovery(region: Region):
    writer_dies(region)
    hold = region.write_lock(recover=True)
    with pytest.raises(ZeroDivisionError):
        async with hold:
            with pytest.raises(RuntimeError, match="release it in its thread"):
                await anyio.to_thread.run_sync(hold.release)
            raise ZeroDivisionError
    assert not is_sound(region)


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
    assert is_sound(region)
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
    assert not is_sound(region)


def test_a_recovery_that_is_refused_changes_nothing(region: Region, other: Region):
    writer_dies(region)
    with region.write_lock(recover=True):
        with pytest.raises(LockTimeoutError):
            other.write_lock(recover=True, timeout=0.01).acquire_blocking()
    assert is_sound(region)


# ---- ignore ----------------------------------------------------------------------------


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
        assert is_sound(region)
        writer_dies(region)
        rival.do("exclusive")
        async with anyio.create_task_group() as group:
            group.start_soon(enter_async, careless.read_lock())
            group.start_soon(enter_async, careless.write_lock())
            await until(lambda: queued(careless) == 2)
            rival.do("unlock")
        assert is_sound(region)
        writer_dies(region)
        hold = careless.read_lock()
        async with hold:
            assert await hold.upgrade() is True
        assert is_sound(region)
        writer_dies(region)
        hold = careless.write_lock(recover=True)  # who asks is told all the same
        with hold:
            assert hold.owner_died is True


# ---- repair ----------------------------------------------------------------------------


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
    assert is_sound(region)


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
    assert is_sound(region)


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
    assert is_sound(region)


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
    assert is_sound(region)


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
    recovery = Region._recovery

    def too_late(region: Region, error: OwnerDiedError, repairs: int) -> Hold:
        rival.do("exclusive")
        return recovery(region, error, repairs)

    writer_dies(region)
    monkeypatch.setattr(Region, "_recovery", too_late)
    with pytest.raises(WouldBlockError):
        await way(mended.read_lock())
    assert repair.calls == 0


def test_a_repair_counts_towards_the_timeout(
    region: Region, mended: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    recovery = Region._recovery

    def too_late(region: Region, error: OwnerDiedError, repairs: int) -> Hold:
        rival.do("exclusive")
        return recovery(region, error, repairs)

    writer_dies(region)
    monkeypatch.setattr(Region, "_recovery", too_late)
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


# ---- kills -----------------------------------------------------------------------------

KILLS = """
import os, random, signal, sys, time
from shm_async import OwnerDiedError, Region

region = Region.attach(sys.argv[1])
kills = int(sys.argv[2])
enter = getattr(region, sys.argv[3])
A, B = 0, 7

def write_for_ever(ack):
    for _ in iter(int, 1):
        with enter() as view:
            view[A] += 1
            view[B] += 1
        os.write(ack, b"x")

acknowledged = told = torn = 0
for number in range(kills):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        write_for_ever(write)
    os.close(write)
    acknowledged += len(os.read(read, 1))
    time.sleep(random.random() * 0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(read, 65536):
        acknowledged += len(more)
    os.close(read)
    hold = region.write_lock(recover=True)
    with hold as view:
        if not hold.owner_died:
            assert view[A] == view[B], "it was not told of a half write"
        assert acknowledged <= view[B] <= view[A] <= acknowledged + 1, (acknowledged, list(view))
        told += hold.owner_died
        torn += view[A] != view[B]
        view[A] = view[B] = acknowledged
print(acknowledged, told, torn)
"""


@pytest.mark.parametrize("enter", ["write_lock", "transaction"])
def test_killed_writers_lose_no_acknowledged_write_and_never_tear_in_silence(
    region: Region, run_python, enter: str
):
    done = run_python(KILLS, "150", enter)
    assert done.returncode == 0, done.stderr
    acknowledged, told, _torn = map(int, done.stdout.split())
    assert acknowledged >= 150
    if enter == "write_lock":
        assert told > 0, "nobody was killed inside"
    else:
        assert told < 30, "who dies in a transaction does no harm"
    assert is_sound(region)
