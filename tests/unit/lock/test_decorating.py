"""Functions that run under a lock, and whether it is held at all."""

import functools
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from rivals import Rival

from shm_async import LockTimeoutError, Region


def test_a_function_runs_under_the_lock(region: Region, rival: Rival):
    @region.write_lock()
    def add(number: int, *, times: int = 1) -> int:
        """Add it."""
        assert rival.do("try-shared") == "busy"
        region.buffer[0] += number * times
        return region.buffer[0]

    assert (add(2), add(3, times=2)) == (2, 8)
    assert (add.__name__, add.__doc__) == ("add", "Add it.")
    assert rival.do("try-exclusive") == "done"


async def test_a_coroutine_function_runs_under_the_lock(region: Region, rival: Rival):
    @region.write_lock()
    async def add(number: int) -> None:
        seen = region.buffer[0]
        await anyio.lowlevel.checkpoint()
        region.buffer[0] = seen + number

    async with anyio.create_task_group() as group:
        for _ in range(10):  # each has a hold of its own
            group.start_soon(add, 1)
    assert region.buffer[0] == 10
    assert rival.do("try-exclusive") == "done"


def test_readers_that_are_decorated_share_the_lock(region: Region):
    together = threading.Barrier(2)

    @region.read_lock()
    def read() -> None:
        together.wait(10)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken


def test_an_exception_releases_and_passes(region: Region):
    @region.write_lock()
    def fail() -> None:
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()


def test_options_are_kept(region: Region, rival: Rival):
    @region.write_lock(timeout=0.01)
    def write() -> None:
        pytest.fail("the rival has it")

    rival.do("exclusive")
    with pytest.raises(LockTimeoutError):
        write()


async def test_callable_objects_and_partials_are_what_they_call(region: Region, rival: Rival):
    class Add:
        async def __call__(self) -> None:
            await anyio.lowlevel.checkpoint()
            assert rival.do("try-shared") == "busy"

    async def add(_number: int) -> None:
        await Add()()

    await region.write_lock()(Add())()
    await region.write_lock()(functools.partial(add, 1))()


def test_what_would_run_without_the_lock_is_refused(region: Region):
    def generate():
        yield

    async def generate_async():
        yield

    for function in (generate, generate_async):
        with pytest.raises(TypeError, match="generator"):
            region.write_lock()(function)
    with pytest.raises(TypeError, match="decorates functions"):
        region.write_lock()(Region)
    with pytest.raises(TypeError, match="decorates functions"):
        region.write_lock()(3)

    async def inner() -> None:
        pass

    with pytest.raises(TypeError, match="returned a coroutine"):
        region.write_lock()(lambda: inner())()


# ---- locked ---------------------------------------------------------------------------------


async def test_locked_tells_who_is_inside_and_disturbs_nobody(region: Region, rival: Rival):
    assert region.locked() is None
    async with region.read_lock():
        assert region.locked() == "read"
    with region.write_lock():
        assert region.locked() == "write"
    for taken, kind in (("shared", "read"), ("exclusive", "write")):
        rival.do(taken)
        assert region.locked() == kind
        rival.do("unlock")
    async with region.write_lock(), anyio.create_task_group() as group:
        group.start_soon(region.read_lock().acquire)  # who waits does not count
        await anyio.sleep(0.01)
        assert region.locked() == "write"
        group.cancel_scope.cancel()
    assert region.locked() is None


# ---- who waits --------------------------------------------------------------------------------


async def test_a_cancelled_waiter_that_has_not_run_yet_does_not_count(region: Region, rival: Rival):
    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        group.start_soon(region.write_lock().acquire)
        while region.statistics().waiting != 1:
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
        assert region.statistics().waiting == 0
    assert region.statistics().waiting == 0
    assert region.statistics().cancelled == 1
