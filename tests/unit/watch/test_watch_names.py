"""A watcher whose region's name was unlinked, and given to a new region."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

import anyio
import pytest
from watchers import SOON, instances, one_who_waits, write_with

from shm_async import Region, RegionNotFoundError, RegionReplacedError, _native, prune
from shm_async._memory import names
from shm_async._watch import lookout


@pytest.fixture(params=["POSIX", "System V"])
def address(request: pytest.FixtureRequest, name: str) -> Iterator[str | int]:
    if request.param == "POSIX":
        yield name
        return
    key = request.getfixturevalue("sysv_key")
    yield key
    with contextlib.suppress(RegionNotFoundError):
        with Region.attach(key) as left:
            left.unlink()
    prune(names.name_of(key), dry_run=False)


def make(address: str | int, length: int = 2) -> Region:
    return Region.create(address, length, dtype="uint64")


async def test_who_follows_goes_over_to_the_new_one(address):
    with make(address) as old:
        await write_with(old)
        with Region.attach(address, follow=True) as follower:
            async with one_who_waits(follower) as one:
                old.unlink()
                with make(address, 3) as new:
                    assert await one.hear() == 0
                    assert len(follower) == 3
                    async with one_who_waits(follower, since=0) as another:
                        await write_with(new)
                        assert await another.hear() == 2


async def test_who_does_not_follow_is_told(address):
    with make(address) as old, Region.attach(address) as other:
        async with one_who_waits(other) as one:
            old.unlink()
            with make(address):
                error = await one.hear()
                assert isinstance(error, RegionReplacedError)
                assert error.errno == errno.ESTALE
                assert "follow=True" in str(error)
                with pytest.raises(RegionReplacedError), anyio.fail_after(SOON):
                    await other.wait_changed()


async def test_what_was_written_before_is_told_first(address):
    with make(address) as old, Region.attach(address, follow=True) as follower:
        changes = follower.changes()
        await write_with(old)
        old.unlink()
        with make(address):
            with anyio.fail_after(SOON):
                assert await anext(changes) == 2
                assert await anext(changes) == 0


async def test_an_iteration_goes_on_with_the_new_one_although_it_counts_less(address):
    """Also one that was not waiting while another task went over."""
    with make(address) as old, Region.attach(address, follow=True) as follower:
        for _ in range(5):
            await write_with(old)
        changes, slow = follower.changes(), follower.changes()
        async with one_who_waits(follower) as one:
            old.unlink()
            with make(address) as new:
                assert await one.hear() == 0
                with anyio.fail_after(SOON):
                    assert await anext(changes) == 0
                    await write_with(new)
                    assert await anext(changes) == 2
                    assert await anext(slow) == 2


async def test_an_unlink_alone_ends_no_wait(address):
    with make(address) as old, Region.attach(address) as other:
        async with one_who_waits(other) as one:
            old.unlink()
            await write_with(old)
            assert await one.hear() == 2


async def test_names_of_others_end_no_wait(name: str):
    with make(name) as old, Region.attach(name) as other:
        async with one_who_waits(other) as one:
            old.unlink()
            with Region.create(f"{name}-{'x' * 150}", 1) as long:
                long.unlink()
            os.close(os.open(f"/dev/shm/{name}.other", os.O_CREAT | os.O_RDWR, 0o600))
            os.rename(f"/dev/shm/{name}.other", f"/dev/shm/{name}.another")
            os.unlink(f"/dev/shm/{name}.another")
            await write_with(old)
            assert await one.hear() == 2


async def test_a_new_region_that_is_renamed_into_place_is_found(name: str):
    with make(name), Region.attach(name) as other:
        async with one_who_waits(other) as one:
            make(f"{name}.new").close()
            os.rename(f"/dev/shm/{name}.new", f"/dev/shm/{name}")
            assert isinstance(await one.hear(), RegionReplacedError)


async def test_a_region_that_is_renamed_itself_is_found(name: str):
    with make(name), Region.attach(name) as other:
        async with one_who_waits(other) as one:
            os.rename(f"/dev/shm/{name}", f"/dev/shm/{name}.old")
            with make(name):
                assert isinstance(await one.hear(), RegionReplacedError)
        os.unlink(f"/dev/shm/{name}.old")


async def test_a_segment_that_was_removed_behind_our_back_is_found_with_the_next(sysv_key: int):
    with make(sysv_key), Region.attach(sysv_key) as other:
        async with one_who_waits(other) as one:
            os.system(f"ipcrm -M {sysv_key:#x}")
            with make(sysv_key) as new:
                assert isinstance(await one.hear(), RegionReplacedError)
                new.unlink()


async def test_one_of_another_type_is_an_error(name: str):
    with make(name) as old, Region.attach(name, follow=True) as follower:
        async with one_who_waits(follower) as one:
            old.unlink()
            with Region.create(name, 2, dtype="int8"):
                assert "uint64" in str(await one.hear())


async def test_a_name_that_comes_and_goes_a_hundred_times_is_followed_to_the_end(name: str):
    first = make(name)
    with Region.attach(name, follow=True) as follower:
        first.unlink()
        first.close()
        turns = threading.Semaphore(0)

        def make_anew() -> None:
            for _ in range(100):
                with make(name) as new:
                    new.unlink()
            with make(name, 7):
                turns.release()

        thread = threading.Thread(target=make_anew)
        thread.start()
        with anyio.fail_after(SOON):
            while len(follower) != 7:
                await follower.wait_changed()
        thread.join()


async def test_a_limit_is_named_to_who_waits(name: str, monkeypatch: pytest.MonkeyPatch):
    with make(name) as old, Region.attach(name) as other:
        async with one_who_waits(other) as one:
            monkeypatch.setattr(_native, "watch_add_names", lambda *_: -errno.ENOSPC)
            old.unlink()
            assert "max_user_watches" in str(await one.hear())


async def test_nothing_wakes_a_loop_without_need(region: Region, monkeypatch: pytest.MonkeyPatch):
    """As long as the name leads to the region its directory is not watched."""
    monkeypatch.setattr(_native, "watch_add_names", lambda *_: pytest.fail("the directory"))
    async with one_who_waits(region) as one:
        await write_with(region)
        assert await one.hear() == 2
    assert instances() == 1
    assert all(not hub.nameless for hub in lookout._hubs.values())
