"""The types that users get from regions and their locks, for mypy and pyright: never run."""

from typing import Any, Literal, cast

import numpy
from typing_extensions import assert_type

from shm_async import Changes, Hold, Holder, Region, RegionInfo, Statistics, inspect, prune
from shm_async.errors import LockTimeoutError, ShmError


def makers() -> None:
    assert_type(Region.create("x", 8, dtype="float64", unlink="creator"), Region)
    assert_type(Region.create(None, shape=(2, 3), dtype=numpy.float32), Region)
    assert_type(Region.attach(0x1234, dtype="int32", readonly=True), Region)
    assert_type(Region.open("x", 8, on_owner_death="ignore", follow=True), Region)
    with Region.temporary(8) as region:
        assert_type(region, Region)


class Counter(Region):
    """The makers of a subclass return it."""

    __slots__ = ()


def subclasses() -> None:
    assert_type(Counter.create("x", 8), Counter)
    assert_type(Counter.attach("x"), Counter)
    assert_type(Counter.open("x", 8), Counter)
    with Counter.temporary(8) as counter:
        assert_type(counter, Counter)


async def regions_in_coroutines(region: Counter) -> None:
    async with region as entered:
        assert_type(entered, Counter)
    assert_type(await region.aclose(), None)


def facts(region: Region) -> None:
    assert_type(region.name, str)
    assert_type(region.key, int | None)
    assert_type(region.dtype, str)
    assert_type(region.shape, tuple[int, ...])
    assert_type(region.nbytes, int)
    assert_type(len(region), int)
    assert_type(region.created, bool)
    assert_type(region.closed, bool)
    assert_type(region.generation, int | None)
    assert_type(region.slow_hold, float | None)
    assert_type(region.buffer, memoryview)
    assert_type(region.numpy(), numpy.ndarray[Any, Any])
    assert_type(region.statistics(), Statistics)
    assert_type(region.locked(), Literal["read", "write"] | None)


async def locks_in_coroutines(region: Region) -> None:
    async with region.read_lock() as view:
        assert_type(view, memoryview)
        assert_type(view[0], int)
    async with region.write_lock(label="checkout") as view:
        view[0] = 1
        view[:4] = b"four"
    async with region.transaction() as copy:
        assert_type(copy, memoryview)
    async with region.write_lock(recover=True) as view:
        assert_type(view, memoryview)


def locks_in_threads(region: Region) -> int:
    with region.read_lock(timeout=1.5) as view:
        assert_type(view, memoryview)
    with region.transaction(timeout=1) as copy:
        assert_type(copy, memoryview)
    # a block never swallows an exception: no other return is needed
    with region.write_lock() as view:
        return view[0]


def floats(region: Region) -> None:
    with region.write_lock() as view:
        numbers = cast("memoryview[float]", view)
        numbers[0] = 1.5
        assert_type(numbers[0], float)


async def holds(region: Region) -> None:
    hold: Hold = region.read_lock()
    assert_type(await hold.acquire(), memoryview)
    assert_type(await hold.upgrade(), bool)
    assert_type(hold.downgrade(), None)
    assert_type(await hold.downgrade_async(), None)
    assert_type(hold.view, memoryview)
    assert_type(hold.numpy(), numpy.ndarray[Any, Any])
    assert_type(hold.owner_died, bool)
    assert_type(hold.release(), None)
    assert_type(await hold.release_async(), None)
    assert_type(hold.acquire_blocking(timeout=1), memoryview)
    assert_type(hold.acquire_nowait(), memoryview)
    assert_type(hold.upgrade_blocking(), bool)
    assert_type(hold.upgrade_nowait(), None)


async def snapshots(region: Region) -> None:
    assert_type(region.snapshot(timeout=1), bytes)
    assert_type(region.snapshot(into=bytearray(8)), None)
    assert_type(await region.snapshot_async(), bytes)
    assert_type(await region.snapshot_async(into=memoryview(bytearray(8))), None)


async def changes(region: Region) -> None:
    generation = await region.wait_changed()
    assert_type(generation, int)
    assert_type(region.changes(since=generation), Changes)
    async for each in region.changes():
        assert_type(each, int)


def watching(region: Region) -> None:
    assert_type(region.holders(), tuple[Holder, ...])
    assert_type(region.holders()[0].pid, int | None)
    assert_type(inspect("myservice.*"), tuple[RegionInfo, ...])
    assert_type(inspect()[0].name, str)
    assert_type(prune(dry_run=False), list[str | int])


def decorators(region: Region) -> None:
    @region.read_lock()
    def total(first: int, *, scale: float = 1.0) -> str:
        return str(first * scale)

    @region.write_lock()
    async def count(step: int) -> int:
        return step

    assert_type(total(1, scale=2.0), str)

    async def use() -> None:
        assert_type(await count(1), int)

    print(use)


def errors(error: ShmError, timeout: LockTimeoutError) -> None:
    plain: OSError | Exception = error
    builtin: TimeoutError = timeout
    print(plain, builtin)
