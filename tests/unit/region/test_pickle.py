"""Pickling: a region takes its name to another process, and attaches there."""

import concurrent.futures
import multiprocessing
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_process
import errands
import pytest
from dying import writer_dies

from shm_async import Region, RegionClosedError, RegionNotFoundError

METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=["named", "system-v"])
def counter(request: pytest.FixtureRequest, name: str) -> Iterator[Region]:
    """A region of two numbers, named or keyed, that is gone at the end."""
    made = Region.create(name if request.param == "named" else None, 2, dtype="uint64")
    with made:
        yield made
        made.unlink()


def how_to_attach(region: Region) -> dict[str, object]:
    """The arguments that a pickle takes along."""
    return region.__reduce__()[1][2]


def travelled(region: Region) -> Region:
    return pickle.loads(pickle.dumps(region))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_region_that_was_pickled_is_another_attachment_of_the_same_memory(
    counter: Region, protocol: int
):
    with pickle.loads(pickle.dumps(counter, protocol)) as other:
        assert errands.facts(other) == errands.facts(travelled(counter))
        assert (other.created, counter.created) == (False, True)
    with travelled(counter) as other:
        with other.write_lock() as view:
            view[1] = 5
        with pytest.raises(BlockingIOError), counter.read_lock():
            other.write_lock().acquire_nowait()
    assert counter.buffer[1] == 5


def test_closing_the_one_leaves_the_other_open(counter: Region):
    other = travelled(counter)
    other.close()
    counter.buffer[0] = 1
    with travelled(counter) as again:
        assert again.buffer[0] == 1


OPTIONS: dict[str, dict[str, Any]] = {
    "shape": {"shape": (2, 3), "dtype": "int16"},
    "raw": {"length": 5, "dtype": "float32", "layout": "raw"},
    "sized": {"length": 5, "dtype": "uint32", "layout": "sized"},
    "ignores deaths": {"length": 1, "on_owner_death": "ignore"},
    "repairs": {"length": 2, "on_owner_death": errands.repair},
    "locked memory": {"length": 1, "lock_memory": True},
    "lifetime": {"length": 1, "unlink": "creator", "if_unlinked": "raise", "follow": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_a_region_was_made_with_is_what_the_other_attaches_with(name: str, options: dict):
    with Region.create(name, **options) as region, travelled(region) as other:
        assert how_to_attach(other) == how_to_attach(region)
        assert repr(other) == repr(region)
        assert other.buffer.shape == region.buffer.shape
        with travelled(other) as third:  # and so on
            assert how_to_attach(third) == how_to_attach(region)


def test_what_a_region_was_attached_with_is_kept_too(name: str):
    given = {"dtype": "uint16", "layout": "raw", "readonly": True, "owner": "any"}
    with Region.create(name, 6), Region.attach(name, 3, **given, lock_memory=True) as region:
        with travelled(region) as other:
            how = how_to_attach(other)
            assert how == {
                **given, "shape": (3,), "lock_memory": True, "on_owner_death": "raise",
                "unlink": "never", "if_unlinked": "ignore", "follow": False,
            }  # fmt: skip
            with pytest.raises(PermissionError):
                other.write_lock()


@pytest.mark.parametrize("exists", [True, False])
def test_the_trust_in_another_owner_travels_from_open(name: str, exists: bool):
    if exists:
        Region.create(name, 1).close()
    with Region.open(name, 1, owner="any") as region, travelled(region) as other:
        assert how_to_attach(other)["owner"] == "any"


def test_locked_memory_is_locked_in_the_receiver(name: str):
    with Region.create(name, 1 << 16, lock_memory=True) as region:
        before = locked_kilobytes()
        with travelled(region) as other:
            other.buffer[:] = bytes([1]) * len(other)
            assert locked_kilobytes() >= before + 64


def locked_kilobytes() -> int:
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row.split()[1] for row in rows if row.startswith("VmLck")))


def test_a_repair_travels_and_repairs(name: str):
    with Region.create(name, 2, on_owner_death=errands.repair) as region:
        writer_dies(region)
        with travelled(region) as other, other.read_lock() as view:
            assert view[1] == 7


def test_a_repair_that_has_no_name_is_pickles_own_error(name: str):
    with Region.create(name, 1, on_owner_death=lambda hold: None) as region:
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            pickle.dumps(region)


def test_a_subclass_stays_what_it_is(name: str):
    with Counters.create(name, 1) as region, travelled(region) as other:
        assert type(other) is Counters


class Counters(Region):
    pass


def test_a_closed_region_is_not_pickled(region: Region):
    region.close()
    with pytest.raises(RegionClosedError):
        pickle.dumps(region)


def test_unpickling_what_was_unlinked_meanwhile_says_so(name: str):
    with Region.create(name, 1) as region:
        pickled = pickle.dumps(region)
        region.unlink()
        with pytest.raises(RegionNotFoundError, match=name):
            pickle.loads(pickled)


# ---- into other processes ----------------------------------------------------------------


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork, and threads here
        yield multiprocessing.get_context(request.param)


def test_processes_count_exactly_in_a_region_they_were_given(counter: Region, context: Any):
    workers = [context.Process(target=errands.add, args=(counter,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
        worker.close()
    assert counter.buffer[0] == 3 * errands.ROUNDS


def test_a_pool_executor_counts_exactly(counter: Region, context: Any):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        pids = set(pool.map(errands.add, [counter] * 6))
        there = pool.submit(errands.facts, counter).result()
    assert counter.buffer[0] == 6 * errands.ROUNDS
    assert there == errands.facts(travelled(counter))
    assert len(pids) in (1, 2)


def test_who_is_killed_writing_in_a_pool_is_told_of_here(counter: Region, context: Any):
    worker = context.Process(target=errands.die_writing, args=(counter,))
    worker.start()
    worker.join(30)
    worker.close()
    with counter.write_lock(recover=True, timeout=10) as view:
        assert view[1] == 1


async def test_anyios_worker_processes_count_exactly(counter: Region):
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(anyio.to_process.run_sync, errands.add, counter)
    assert counter.buffer[0] == 4 * errands.ROUNDS
