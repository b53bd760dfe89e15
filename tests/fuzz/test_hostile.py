"""Whoever may write to a region can scribble on its control page: it may cost time, and no more."""

import ctypes
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import fresh_key, segment_of
from rivals import Rival, blocked_in_flock
from traces import PREFIX
from waits import wait_until

from shm_async import Hold, OwnerDiedError, Region, RegionNotFoundError, RegionReplacedError
from shm_async._native import BUSY, snapshot_after, snapshot_before

pytestmark = pytest.mark.long

#: Scripts in each test; thousands find what hundreds do not, see also `make fuzz`.
EXAMPLES = int(os.environ.get("SHM_ASYNC_HOSTILE_EXAMPLES", "150"))


names = (f"{PREFIX}hostile-{number}" for number in itertools.count())


scripts = st.binary(min_size=60, max_size=240)


plays = settings(max_examples=EXAMPLES, deadline=None)


bounded = pytest.mark.timeout(
    60 + EXAMPLES // 5
)  # a script takes 5 ms; a sanitizer and others, too


GENERATION, REPLACED = 128, 148


@pytest.fixture
def vandal(region: Region) -> Iterator[hostile.Vandal]:
    vandal = hostile.Vandal(region.name)
    yield vandal
    vandal.close()


# ---- scripts -------------------------------------------------------------------


@bounded
@plays
@given(scripts)
def test_nothing_on_the_page_does_more_than_raise_what_is_documented(script: bytes):
    hostile.play(next(names), script)


@bounded
@plays
@given(scripts)
def test_nor_does_it_to_the_tasks_of_an_event_loop(script: bytes):
    hostile.play_async(next(names), script)


@bounded
@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(scripts)
def test_nor_does_it_in_a_system_v_segment(script: bytes):
    key = fresh_key()
    hostile.play(key, script)
    hostile.play_async(key, script)
    assert segment_of(key) is None


# ---- all the time ----------------------------------------------------------------


@contextmanager
def scribbling(region: Region, *offsets: int) -> Iterator[None]:
    """Another process stores random numbers there, as fast as it can."""
    memory = hostile.Vandal(region.name)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            places = itertools.cycle([memory.start + offset for offset in offsets])
            while os.getppid() == parent:
                for junk in map(os.urandom, itertools.repeat(8, 1000)):
                    place = next(places)
                    memory.memory[place : place + 8] = junk
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        memory.close()


def quiet_play(region: Region, vandal: hostile.Vandal) -> hostile.Play:
    """A play whose vandal does nothing but look on."""
    return hostile.Play(region, vandal, hostile.Script(itertools.repeat(0)))


def no_repair(_hold: Hold) -> None:
    pass


@pytest.mark.parametrize("offsets", [(GENERATION,), hostile.CHANGING], ids=["generation", "all"])
@pytest.mark.parametrize("policy", ["raise", "ignore", no_repair])
def test_one_who_never_stops_scribbling_keeps_nobody_from_going_on(
    name: str, policy, offsets: tuple[int, ...]
):
    with Region.create(name, 5, on_owner_death=policy) as region:
        vandal = hostile.Vandal(name)
        play = quiet_play(region, vandal)
        with scribbling(region, *offsets):
            for scene in hostile.Play.SCENES[2:] * 40:
                play.ask(scene)
        vandal.close()


# ---- near the end of the numbers ---------------------------------------------------


@pytest.mark.parametrize("last", [2**63 - 2, 2**64 - 2])
def test_a_generation_goes_on_where_its_numbers_end(
    region: Region, vandal: hostile.Vandal, last: int
):
    vandal.write(GENERATION, last.to_bytes(8, "little"))
    assert region.generation == last
    with region.write_lock() as view:
        assert region.generation == last + 1
        view[0] = 1
    assert region.generation == (last + 2) % 2**64
    with region.read_lock():
        assert memoryview(region.snapshot()).cast("Q")[0] == 1


@pytest.mark.parametrize("last", [2**63 - 2, 2**64 - 2])
def test_a_snapshot_notices_a_writer_where_the_numbers_end(
    region: Region, vandal: hostile.Vandal, last: int
):
    vandal.write(GENERATION, last.to_bytes(8, "little"))
    glance = region._table.opener.snapshot
    before = snapshot_before(glance)
    assert before == snapshot_after(glance) >= 0
    with region.write_lock():
        assert snapshot_before(glance) == BUSY
        assert snapshot_after(glance) != before
    assert 0 <= snapshot_after(glance) != before
    assert snapshot_before(glance) == snapshot_after(glance)


@pytest.mark.parametrize("lie", [0, 1, 4, 5, 2**63, 2**64 - 2, 2**64 - 1])
def test_whatever_it_was_made_while_somebody_wrote_it_is_even_when_that_one_ends(
    region: Region, vandal: hostile.Vandal, lie: int
):
    with region.write_lock():
        vandal.write(GENERATION, lie.to_bytes(8, "little"))
    assert region.generation % 2 == 0
    with region.read_lock():
        pass


@pytest.mark.parametrize("last", [2**63 - 1, 2**63 + 1, 2**64 - 1])
def test_a_writer_that_died_at_the_end_of_the_numbers_is_recovered_from(
    region: Region, vandal: hostile.Vandal, last: int
):
    vandal.write(GENERATION, last.to_bytes(8, "little"))
    with pytest.raises(OwnerDiedError):
        region.read_lock().acquire_blocking()
    with pytest.raises(OwnerDiedError):
        region.snapshot()
    with region.write_lock(recover=True):
        assert region.generation % 2 == 1
    assert region.generation % 2 == 0
    assert region.generation != last
    with region.read_lock():
        region.snapshot()


# ---- repairs that do not last --------------------------------------------------------


@pytest.fixture
def undone(name: str) -> Iterator[Region]:
    """A region that is damaged again as soon as it has been repaired."""

    def repair(hold: Hold) -> None:
        hold.release()
        vandal.write(GENERATION, b"\1")

    with Region.create(name, 5, on_owner_death=repair) as region:
        vandal = hostile.Vandal(name)
        vandal.write(GENERATION, b"\1")
        yield region
        vandal.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ask", ["read_lock", "write_lock"])
def test_a_repair_that_does_not_last_is_given_up(undone: Region, ask: str):
    for take in (Hold.acquire_blocking, Hold.acquire_nowait):
        with pytest.raises(OwnerDiedError):
            take(getattr(undone, ask)())
    with pytest.raises(OwnerDiedError):
        undone.snapshot(timeout=1)
    assert undone.holders() == ()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ask", ["read_lock", "write_lock"])
async def test_a_repair_that_does_not_last_is_given_up_in_a_loop_too(undone: Region, ask: str):
    hold = getattr(undone, ask)()
    with pytest.raises(OwnerDiedError):
        await hold.acquire()
    with pytest.raises(OwnerDiedError):
        hold.acquire_nowait()
    with pytest.raises(OwnerDiedError):
        await undone.snapshot_async()
    assert undone.holders() == ()


@pytest.mark.timeout(30)
async def test_an_upgrade_does_not_repair_for_ever_either(undone: Region, name: str):
    with undone.write_lock(recover=True):
        pass
    vandal = hostile.Vandal(name)
    hold = undone.read_lock()
    await hold.acquire()
    vandal.write(GENERATION, b"\1")
    vandal.close()
    with pytest.raises(OwnerDiedError):
        await hold.upgrade()
    assert undone.holders() == ()


@pytest.mark.timeout(30)
def test_a_thread_that_upgrades_does_not_repair_for_ever_either(undone: Region, name: str):
    with undone.write_lock(recover=True):
        pass
    vandal = hostile.Vandal(name)
    rival = Rival(name)
    rival.do("shared")
    outcomes = []

    def upgrade() -> None:
        hold = undone.read_lock()
        hold.acquire_blocking()
        try:
            hold.upgrade_blocking(timeout=5)
        except OwnerDiedError as error:
            outcomes.append(error)

    thread = threading.Thread(target=upgrade)
    thread.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    vandal.write(GENERATION, b"\1")
    rival.close()
    thread.join()
    vandal.close()
    assert len(outcomes) == 1
    assert undone.holders() == ()


@pytest.mark.timeout(30)
def test_nobody_goes_after_what_has_not_replaced_the_region(region: Region, vandal: hostile.Vandal):
    with Region.attach(region.name, follow=True) as other:
        region.unlink()
        vandal.write(REPLACED, b"\1")
        with pytest.raises(RegionReplacedError):
            region.read_lock().acquire_blocking()
        with pytest.raises(RegionNotFoundError):  # a lie: there is nothing to go over to
            other.read_lock().acquire_blocking()


@pytest.mark.timeout(30)
def test_a_repair_that_lasts_the_third_time_is_enough(name: str):
    repaired = []

    def repair(hold: Hold) -> None:
        repaired.append(hold)
        if len(repaired) < 3:
            hold.release()
            vandal.write(GENERATION, b"\1")

    with Region.create(name, 5, on_owner_death=repair) as region:
        vandal = hostile.Vandal(name)
        vandal.write(GENERATION, b"\1")
        with region.read_lock():
            assert len(repaired) == 3
        vandal.close()
