"""Mistakes that every user makes once: each gets an answer that says what to do instead."""

import asyncio
import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import anyio
import pytest
from waits import wait_until

import shm_async
from shm_async import Region
from shm_async._memory import elements, temporary
from shm_async._memory.temporary import PREFIX


def says(*words: str) -> str:
    """A pattern for a message that has all these words, in this order."""
    return ".*".join(map(re.escape, words))


# ---- a hold that is not used as it should be -----------------------------------------------


async def test_awaiting_a_transaction_names_its_block(region: Region):
    with pytest.raises(TypeError, match=says("`async with region.transaction() as view:`")):
        await region.transaction()


@pytest.mark.parametrize("make", [Region.read_lock, Region.write_lock])
async def test_awaiting_a_lock_names_both_ways_to_take_it(region: Region, make):
    with pytest.raises(TypeError, match=says("`async with", "`await hold.acquire()`")):
        await make(region)
    assert region.holders() == ()


async def test_a_view_without_a_lock_asks_for_await(region: Region):
    hold = region.write_lock()
    forgotten = hold.acquire()
    with pytest.raises(RuntimeError, match=says("is not held", "you forgot `await`")):
        hold.view[0] = 1
    with pytest.raises(RuntimeError, match=says("is not held", "you forgot `await`")):
        hold.release()
    with pytest.raises(RuntimeError, match=says("is not held", "you forgot `await`")):
        hold.downgrade()
    forgotten.close()


async def test_the_truth_of_an_upgrade_asks_for_await(region: Region):
    hold = region.read_lock()
    async with hold:
        with pytest.raises(TypeError, match=says("upgrade() was not awaited", "if await")):
            if not hold.upgrade():
                pass
        assert hold.view.readonly
        assert await hold.upgrade()
        hold.view[0] = 1


async def test_an_upgrade_that_was_dropped_is_told_of_at_the_store(region: Region):
    hold = region.read_lock()
    async with hold:
        with pytest.warns(RuntimeWarning, match="upgrade' was never awaited"):
            hold.upgrade()
            gc.collect()
        with pytest.raises(RuntimeError, match=says("still reads", "forgot `await`")):
            hold.view[0] = 1
        assert await hold.upgrade()
        hold.view[0] = 1
    async with hold as view:  # it remembers nothing
        assert view is hold.view


async def test_an_upgrade_can_be_a_task_and_have_a_deadline(region: Region):
    hold = region.read_lock()
    async with hold:
        with anyio.fail_after(5):
            later = hold.upgrade()
            assert hold.view.readonly  # it has not begun
            assert await later
        hold.view[0] = 1


def test_an_upgrade_is_a_coroutine_to_asyncio(region: Region):
    async def main() -> None:
        hold = region.read_lock()
        async with hold:
            assert await asyncio.wait_for(hold.upgrade(), 5)
            hold.downgrade()
            assert await asyncio.create_task(hold.upgrade())

    asyncio.run(main())


async def test_the_view_after_the_block_is_refused(region: Region):
    async with region.write_lock() as view:
        pass
    with pytest.raises(ValueError, match="released memoryview object"):
        view[0]


async def test_a_store_in_a_read_lock_is_refused(region: Region):
    async with region.read_lock() as view:
        with pytest.raises(TypeError, match="read-only memory"):
            view[0] = 1


@pytest.mark.parametrize("value", [b"\x01\x00", "hello"])
def test_a_value_that_is_no_number_is_refused(region: Region, value):
    with region.write_lock() as view, pytest.raises(TypeError, match="invalid type for format"):
        view[0] = value


# ---- a region that is not used as it should be ---------------------------------------------


def test_a_region_has_no_elements(region: Region):
    for use in (
        lambda: region[0],
        lambda: region[1:2],
        lambda: region.__setitem__(0, 1),
        lambda: list(region),
        lambda: 1 in region,
    ):
        with pytest.raises(TypeError, match=says("read_lock() as view", "snapshot()")):
            use()


def test_iterating_over_a_region_says_what_to_do(region: Region):
    with pytest.raises(TypeError, match=says("read_lock() as view", "snapshot()")):
        for _ in region:
            pass


@pytest.mark.parametrize(
    ("attribute", "instead"),
    [
        ("lock", "read_lock() or write_lock()"),
        ("acquire", "hold.acquire()"),
        ("release", "hold.release()"),
        ("buf", "`buffer`"),
        ("view", "read_lock() as view"),
        ("size", "len(region)"),
    ],
)
def test_an_attribute_that_others_have_is_pointed_out(region: Region, attribute: str, instead: str):
    with pytest.raises(AttributeError, match=says(f"no attribute '{attribute}'", instead)):
        getattr(region, attribute)()
    assert not hasattr(region, attribute)


def test_an_attribute_that_nobody_has_is_pythons_own_error(region: Region):
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        region.colour  # noqa: B018


def test_calling_region_names_open():
    with pytest.raises(TypeError, match=says("Region.open('x', 8)", "Region.create")):
        Region("x", 8)
    with pytest.raises(TypeError, match=says("Region.open(name, length)")):
        Region()


def test_a_region_equals_itself_only_and_says_whether_it_is_of_the_same_object(region: Region):
    def same_object(one: Region, other: Region) -> bool:  # as the docstring and the FAQ say
        return one.name == other.name and one.linked and other.linked

    with Region.attach(region.name) as other:
        assert region == region
        assert region != other
        assert len({region, other, region}) == 2
        assert same_object(region, other)
        other.resize(16)
        assert hash(other) == hash(other)
        assert other in {other}
        assert not same_object(region, other)


def test_opening_with_another_length_names_resize_and_attach(region: Region):
    with pytest.raises(
        shm_async.RegionSizeError, match=says("has 8 elements", "not 9", "attach()", "resize()")
    ):
        Region.open(region.name, 9, dtype="uint64")
    with pytest.raises(shm_async.RegionSizeError, match=says("attach()")):
        Region.open(region.name, 10**6, layout="raw")


def test_an_unknown_dtype_is_answered_with_those_that_work_here(name: str):
    with pytest.raises(ValueError, match="unknown dtype 'u64'") as caught:
        Region.create(name, 1, dtype="u64")
    offered = str(caught.value).partition("choose one of ")[2].split(", ")
    assert ("float16" in offered) == (sys.version_info >= (3, 12))
    for dtype in offered:
        assert elements.check_dtype(dtype) == dtype
        Region.create(name, 1, dtype=dtype, unlink="creator").close()


# ---- temporary regions -----------------------------------------------------------------------


def is_there(name: str) -> bool:
    return Path(f"/dev/shm/{name}").exists()


def test_a_temporary_region_is_gone_after_its_block():
    with Region.temporary(4, dtype="uint16") as region:
        assert (region.shape, region.dtype, region.layout) == ((4,), "uint16", "managed")
        assert region.created
        assert is_there(region.name)
        with Region.temporary(4) as other:
            assert other.name != region.name
    assert not is_there(region.name)
    assert not is_there(other.name)


def test_a_temporary_region_can_be_pickled_and_its_receiver_does_not_remove_it():
    with Region.temporary(1) as region:
        with pickle.loads(pickle.dumps(region)) as other:
            other.buffer[0] = 7
        assert is_there(region.name)
        assert region.buffer[0] == 7


def test_a_forked_child_leaves_its_parents_temporary_region():
    with Region.temporary(1) as region:
        for end in (region.close, sys.exit):
            if (pid := os.fork()) == 0:
                try:
                    end()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            assert is_there(region.name)
        program = "import os, sys\nif os.fork() == 0: sys.exit()\nos.wait()\nprint('still',"
        assert "still True" in run_with_a_temporary(f"{program} there())")
    assert not is_there(region.name)


def test_a_temporary_region_that_was_resized_by_others_goes_too():
    with Region.temporary(1) as region:
        with Region.attach(region.name) as other:
            other.resize(5)
        assert not region.linked
    assert not is_there(region.name)


def test_a_temporary_region_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    name = temporary.fresh_name()
    monkeypatch.setattr(temporary, "fresh_name", lambda: name)
    with pytest.raises(TypeError, match="give length or shape"):
        Region.temporary()
    assert not is_there(name)
    assert name not in temporary._to_remove


def run_with_a_temporary(rest: str, *, status: int = 0) -> str:
    """Run a program that has one; return what it printed, its name first."""
    program = f"""
import os, shm_async
region = shm_async.Region.temporary(1)
print(region.name, flush=True)
there = lambda: os.path.exists("/dev/shm/" + region.name)
{textwrap.dedent(rest)}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("end", ["", "region.resize(9)", "raise SystemExit(0)", "del region"])
def test_a_temporary_region_is_gone_when_its_creator_exits(end: str):
    printed = run_with_a_temporary(end)
    assert not is_there(printed.split()[0])


def test_what_a_killed_creator_leaves_is_found_by_prune():
    printed = run_with_a_temporary("os.kill(os.getpid(), 9)", status=-signal.SIGKILL)
    left = printed.split()[0]
    assert is_there(left)
    # a dead process's mappings stay while another one reads which it has
    wait_until(lambda: left in shm_async.prune(f"{PREFIX}*"))
    # by its own name, as the pattern would remove those of all programs of this host
    wait_until(lambda: shm_async.prune(left, dry_run=False) == [left])
    assert not is_there(left)


def test_a_temporary_region_that_is_garbage_is_removed_at_exit_and_not_before():
    region = Region.temporary(1)
    name = region.name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del region
        gc.collect()
    assert [each.category for each in caught] == [ResourceWarning]
    assert is_there(name)
    shm_async.Region.attach(name, unlink="last").close()
