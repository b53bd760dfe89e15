"""Regions whose name is gone. With if_unlinked="raise" no lock is granted on such an orphan."""

import fcntl
import os
import threading

import anyio
import pytest
from peers import fresh_key, remove_segment
from rivals import Rival, blocked_in_flock
from waits import wait_until

from shm_async import Region, RegionNotFoundError
from shm_async._memory import names

REMOVALS = {
    "by unlink": lambda region: region.unlink(),
    "by somebody": lambda region: os.unlink(f"/dev/shm/{region.name}"),
    "by another one that takes its name": lambda region: os.rename(
        f"/dev/shm/{region.name}.other", f"/dev/shm/{region.name}"
    ),
}


@pytest.fixture(params=["managed", "raw", "sized"])
def strict(request: pytest.FixtureRequest, name: str):
    """A region whose locks want its name to lead to it."""
    with Region.open(name, 8, dtype="uint64", layout=request.param, if_unlinked="raise") as region:
        yield region


@pytest.fixture
def key():
    key = fresh_key()
    yield key
    remove_segment(key)
    if os.path.exists(names.path_of(names.companion_of(key))):
        os.unlink(names.path_of(names.companion_of(key)))


@pytest.mark.parametrize("removal", REMOVALS)
def test_every_lock_and_snapshot_refuses_an_orphan(strict: Region, removal: str):
    with strict.write_lock() as view:
        view[0] = 1
    Region.create(f"{strict.name}.other", 8).close()
    REMOVALS[removal](strict)
    assert not strict.linked
    for take in (
        strict.read_lock().acquire_blocking,
        strict.write_lock().acquire_nowait,
        strict.write_lock(recover=True).__enter__,
        strict.transaction().__enter__,
        strict.snapshot,
    ):
        with pytest.raises(RegionNotFoundError, match="it was unlinked") as caught:
            take()
        assert caught.value.filename == strict.name
    if os.path.exists(f"/dev/shm/{strict.name}.other"):
        os.unlink(f"/dev/shm/{strict.name}.other")
    rival = os.open(f"/proc/self/fd/{strict._attachment.segment.fd}", os.O_RDWR)
    fcntl.flock(rival, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing is held
    os.close(rival)


async def test_tasks_are_told_too(name: str, anyio_backend):
    with Region.create(name, 8, if_unlinked="raise") as region:
        async with region.read_lock():
            pass
        region.unlink()
        for lock in (region.read_lock, region.write_lock, region.transaction):
            with pytest.raises(RegionNotFoundError):
                async with lock():
                    pass
        with pytest.raises(RegionNotFoundError):
            await region.snapshot_async()
        assert region.statistics().waiting == 0


async def test_those_who_waited_while_it_was_unlinked_are_told(name: str, anyio_backend):
    told = []
    with Region.create(name, 8, if_unlinked="raise") as region:
        rival = Rival(name)
        assert rival.do("exclusive") == "done"

        async def wait(exclusive: bool) -> None:
            lock = region.write_lock if exclusive else region.read_lock
            try:
                async with lock():
                    told.append("inside")
            except RegionNotFoundError:
                told.append("told")

        async with anyio.create_task_group() as group:
            for exclusive in (True, False, True, False, False):
                group.start_soon(wait, exclusive)
            await anyio.wait_all_tasks_blocked()
            os.unlink(f"/dev/shm/{name}")
            assert rival.do("unlock") == "done"
        rival.close()
    assert told == ["told"] * 5


def test_a_thread_that_waited_while_it_was_unlinked_is_told(name: str):
    told = []
    with Region.create(name, 8, if_unlinked="raise") as region:
        rival = Rival(name)
        assert rival.do("exclusive") == "done"

        def wait() -> None:
            with pytest.raises(RegionNotFoundError):
                region.write_lock().acquire_blocking()
            told.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: blocked_in_flock(os.getpid()))
        os.unlink(f"/dev/shm/{name}")
        assert rival.do("unlock") == "done"
        thread.join(10)
        rival.close()
    assert told == [True]


def test_a_hold_that_is_inside_stays_there(name: str):
    with Region.create(name, 8, if_unlinked="raise") as region:
        with region.write_lock() as view:
            region.unlink()
            view[0] = 1
        with pytest.raises(RegionNotFoundError):
            region.read_lock().acquire_blocking()


def test_by_default_an_orphan_is_used_and_linked_tells(region: Region):
    region.unlink()
    with region.write_lock() as view:
        view[0] = 1
    assert region.snapshot()[0] == 1
    assert not region.linked


@pytest.mark.parametrize("layout", ["managed", "raw"])
@pytest.mark.parametrize("removal", ["by unlink", "by somebody", "by its lock object"])
def test_a_removed_segment_is_refused(key: int, layout, removal: str):
    with Region.create(key, 8, layout=layout, if_unlinked="raise") as region:
        with region.write_lock():
            pass
        if removal == "by unlink":
            region.unlink()
        elif removal == "by somebody":
            remove_segment(key)
        else:  # the next one would make another and lock that
            os.unlink(names.path_of(names.companion_of(key)))
        for take in (region.read_lock().acquire_blocking, region.write_lock().acquire_nowait):
            with pytest.raises(RegionNotFoundError):
                take()
        if layout == "managed":
            with pytest.raises(RegionNotFoundError):
                region.snapshot()
