"""One hold used by several at once: one of them has it, the others get a RuntimeError."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from cohorts import queued
from rivals import Rival
from waits import until

from shm_async import Hold, Region
from shm_async._lock.transaction import Transaction

MAKERS: dict[str, Callable[[Region], Hold | Transaction]] = {
    "read": lambda region: region.read_lock(),
    "write": lambda region: region.write_lock(),
    "timeout": lambda region: region.write_lock(timeout=20),
    "recover": lambda region: region.write_lock(recover=True),
    "transaction": lambda region: region.transaction(),
}


pytestmark = pytest.mark.usefixtures("threads_switch_all_the_time")

THREADS, ROUNDS = 4, 300

#: What is said to those who come second: the last by a conversion, of a hold that writes.
REFUSALS = ("in use", "is not held", "has the write lock already", "reads already")


@pytest.fixture(params=MAKERS)
def shared(region: Region, request: pytest.FixtureRequest) -> Hold | Transaction:
    return MAKERS[request.param](region)


def by_threads(work: Callable[[], None]) -> list[str]:
    """Call it in several threads, again and again; what went wrong, but for refusals."""
    errors: list[str] = []
    begin = threading.Barrier(THREADS)

    def once() -> None:
        try:
            work()
        except RuntimeError as error:
            if not any(refusal in str(error) for refusal in REFUSALS):
                errors.append(repr(error))
        except BaseException as error:
            errors.append(repr(error))

    def run() -> None:
        begin.wait()
        for _ in range(ROUNDS):
            once()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "stuck"
    return errors


def assert_free(region: Region, rival: Rival) -> None:
    assert rival.do("try-exclusive") == "done", "it is held for good"
    rival.do("unlock")
    with region.write_lock():
        pass
    assert region.generation is not None
    assert region.generation % 2 == 0


def test_threads_that_share_a_with(region: Region, rival: Rival, shared: Hold | Transaction):
    inside: list[int] = []

    def work() -> None:
        with shared:
            inside.append(1)
            assert len(inside) == 1, "twice at once"
            inside.pop()

    assert by_threads(work) == []
    assert_free(region, rival)


@pytest.mark.parametrize("acquire", ["acquire_blocking", "acquire_nowait", "__enter__"])
@pytest.mark.parametrize("kind", ["read", "write", "recover"])
def test_threads_that_share_explicit_calls(region: Region, rival: Rival, kind: str, acquire: str):
    hold = MAKERS[kind](region)
    assert isinstance(hold, Hold)
    acquired: list[int] = []
    released: list[int] = []

    def work() -> None:
        try:
            getattr(hold, acquire)()
            acquired.append(1)
        finally:  # of all who come here one releases it
            hold.release()
            released.append(1)

    assert by_threads(work) == []
    assert len(acquired) == len(released) > 0
    assert_free(region, rival)


def test_threads_that_convert_and_release_at_once(region: Region, rival: Rival):
    hold = region.read_lock()

    def work() -> None:
        try:
            with hold:
                hold.upgrade_blocking()
                hold.downgrade()
        finally:
            hold.upgrade_blocking()

    assert by_threads(work) == []
    assert_free(region, rival)


def test_a_release_in_another_thread_beside_the_end_of_the_block(region: Region, rival: Rival):
    hold = region.write_lock()
    done = threading.Event()

    def release() -> None:
        while not done.is_set():
            with contextlib.suppress(RuntimeError):
                hold.release()

    thread = threading.Thread(target=release)
    thread.start()
    for _ in range(ROUNDS * 10):
        with tolerated(), hold:  # the thread may not have finished its release of the last one
            pass
    done.set()
    thread.join()
    assert_free(region, rival)


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """The hold may be refused, as another one uses it just then."""
    try:
        yield
    except RuntimeError as error:
        if "in use" not in str(error):
            raise


async def test_loops_and_threads_that_share_a_hold(
    region: Region, rival: Rival, shared: Hold | Transaction
):
    inside: list[int] = []

    async def task() -> None:
        for _ in range(ROUNDS):
            with contextlib.suppress(TypeError), tolerated():  # timeout= is not for coroutines
                async with shared:
                    inside.append(1)
                    await anyio.lowlevel.checkpoint()
                    assert len(inside) == 1, "twice at once"
                    inside.pop()
            await anyio.lowlevel.checkpoint()

    def thread() -> None:
        for _ in range(ROUNDS):
            with tolerated(), shared:
                inside.append(1)
                assert len(inside) == 1, "twice at once"
                inside.pop()

    async def tasks() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(task)
            group.start_soon(task)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(tasks)
            group.start_soon(anyio.to_thread.run_sync, thread)
            group.start_soon(anyio.to_thread.run_sync, anyio.run, tasks)
    assert_free(region, rival)


async def test_a_hold_that_waits_is_refused_and_goes_on_waiting(region: Region, rival: Rival):
    hold = region.write_lock()
    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        group.start_soon(hold.acquire)
        await until(lambda: queued(region))
        for use in (hold.acquire_blocking, hold.acquire_nowait, hold.__enter__):
            with pytest.raises(RuntimeError, match="in use"):
                await anyio.to_thread.run_sync(use)
        with pytest.raises(RuntimeError, match="not held"):
            hold.release()
        rival.do("unlock")
    hold.view[0] = 1
    hold.release()


async def test_an_upgrade_that_waits_is_neither_released_nor_converted(region: Region):
    hold = region.read_lock()
    inside, leave = anyio.Event(), anyio.Event()

    async def read() -> None:
        async with region.read_lock():
            inside.set()
            await leave.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await inside.wait()
        await hold.acquire()
        group.start_soon(upgrade, hold)
        await until(lambda: queued(region))
        for use in (hold.release, hold.downgrade, hold.upgrade_nowait):
            with pytest.raises(RuntimeError, match="not held"):
                use()
        leave.set()
    assert not hold.view.readonly
    hold.release()
    async with region.write_lock():
        pass


async def upgrade(hold: Hold) -> None:
    await hold.upgrade()


async def test_what_was_acquired_in_another_way_inside_a_block_is_released_by_its_end(
    region: Region, rival: Rival
):
    hold = region.write_lock()
    async with hold:
        hold.release()
        hold.acquire_blocking()
    with hold:
        hold.release()
        await hold.acquire()
    assert_free(region, rival)


def test_two_threads_are_never_given_the_same_hold(region: Region):
    """A hold is handed out again when nobody else refers to it: to one of those who ask."""
    for lock in (region.read_lock, region.write_lock):
        owners: dict[int, object] = {}

        def work(lock=lock, owners=owners) -> None:
            hold, me = lock(), object()
            assert owners.setdefault(id(hold), me) is me, "given to two"
            del owners[id(hold)]

        assert by_threads(work) == []


RUNG = """
import asyncio, signal, sys, warnings
from shm_async import Region
warnings.simplefilter("ignore")
region = Region.attach(sys.argv[1])

class Rung(Exception): pass
def ring(*_): raise Rung
signal.signal(signal.SIGALRM, ring)

def hammer(hold):
    while True:
        with hold: pass

async def hammer_async(hold):
    while True:
        async with hold: pass

for number in range(300):
    hold = (region.write_lock, region.read_lock)[number % 2]()
    loop = asyncio.new_event_loop()
    with hold: pass
    loop.run_until_complete(asyncio.sleep(0))
    try:
        # again, as a collection may swallow it; late, as no second one may come while the first
        # one is handled
        signal.setitimer(signal.ITIMER_REAL, 0.0003 + number % 7 * 0.0001, 1)
        if number % 4 < 2: hammer(hold)
        else: loop.run_until_complete(hammer_async(hold))
    except Rung:
        signal.setitimer(signal.ITIMER_REAL, 0)
    loop.close()
    if "free" not in repr(hold):  # Python may raise before the first line of an __exit__
        hold.release()
    with hold: pass
    free = region.write_lock()
    free.acquire_nowait()  # WouldBlockError: something was left inside
    free.release()
print("ended")
"""


def test_an_exception_of_a_signal_never_spoils_a_hold(region: Region, rival: Rival, run_python):
    """It may come between any two steps of a block's begin and end."""
    done = run_python(RUNG)
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr
    assert_free(region, rival)


@pytest.mark.parametrize("recover", [False, True])
def test_a_block_that_ends_while_the_hold_is_converted_does_not_leak_it(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch, recover: bool
):
    """The call that converts has the right to release, so it releases for the block."""
    hold = region.write_lock(recover=recover)
    downgrade = Hold._downgrade

    def ends_meanwhile(hold: Hold, attempt: object) -> None:
        hold.__exit__(None, None, None)
        assert rival.do("try-shared") == "busy"
        downgrade(hold, attempt)

    monkeypatch.setattr(Hold, "_downgrade", ends_meanwhile)
    hold.__enter__()
    hold.downgrade()
    with pytest.raises(RuntimeError, match="not held"):
        hold.release()
    assert_free(region, rival)
    with hold:
        pass


def test_a_block_that_ends_right_before_a_conversion_returns_the_right_to_release(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = region.write_lock()
    hold.__enter__()
    del hold._held  # a call in another thread has it
    take = Hold._take

    def too_early(hold: Hold) -> bool:
        taken = take(hold)
        monkeypatch.undo()
        hold._held = None
        return taken

    monkeypatch.setattr(Hold, "_take", too_early)
    hold.__exit__(None, None, None)
    assert_free(region, rival)
