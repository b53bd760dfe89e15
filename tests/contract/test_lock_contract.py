"""The contract of the lock: the same for every way to take it, and whoever contends for it.

`me` takes the lock in one of the ways, `other` contends for it; see places.py and members.py.
"""

from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest
from members import Member, Process, Task, Thread
from places import CONTENDERS, TASKS, WAYS, Place, place_in
from rivals import blocked_in_flock
from waits import wait_until

from shm_async import OwnerDiedError, Region, RegionClosedError

KINDS = ["read", "write"]


every_kind = pytest.mark.parametrize("kind", KINDS)


only_tasks = pytest.mark.parametrize("place", TASKS, indirect=True)


only_processes = pytest.mark.parametrize("other", ["process"], indirect=True)


only_managed = pytest.mark.parametrize("region", ["managed"], indirect=True)


@pytest.fixture(params=["managed", "raw"])
def region(request: pytest.FixtureRequest, name: str) -> Iterator[Region]:
    with Region.create(name, 8, dtype="uint64", layout=request.param) as region:
        yield region


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest, region: Region) -> Iterator[Place]:
    with place_in(region, request.param) as place:
        yield place


@pytest.fixture
def me(place: Place) -> Member:
    return place.member()


@pytest.fixture(params=CONTENDERS)
def other(request: pytest.FixtureRequest, place: Place, me: Member) -> Member:
    return place.contender(request.param)


def shares_a_loop(one: Member, other: Member) -> bool:
    return isinstance(one, Task) and isinstance(other, Task) and one.portal is other.portal


def until_it_waits(member: Member, *, behind: Member) -> None:
    """Wait until it stands in a queue: the kernel's, or that of the loop that they share."""
    if shares_a_loop(member, behind):
        wait_until(lambda: waiting(member) == 1)
    else:
        wait_until(lambda: blocked_in_flock(member.pid))


def waiting(member: Thread | Task) -> int:
    """How many members wait for the lock that have their region in common with this one."""
    return member.user.region.statistics().waiting


# ---- exclusive, and shared ---------------------------------------------------------------------


@every_kind
def test_one_who_writes_keeps_others_out(me: Member, other: Member, kind: str):
    with me.inside("write"):
        assert not other.do("try_to_enter", kind)
    with other.inside("write"):
        assert not me.do("try_to_enter", kind)


@every_kind
def test_one_who_waits_gets_the_lock_when_the_writer_leaves(me: Member, other: Member, kind: str):
    for one, two in [(me, other), (other, me)]:
        with one.inside("write"):
            entering = two.begin("enter", kind)
            until_it_waits(two, behind=one)
            assert not entering.done()
        entering.result(10)
        two.do("leave")


def test_one_who_reads_lets_readers_in_and_keeps_writers_out(me: Member, other: Member):
    for one, two in [(me, other), (other, me)]:
        with one.inside("read"):
            with two.inside("read"):
                pass
            assert not two.do("try_to_enter", "write")
            entering = two.begin("enter", "write")
            until_it_waits(two, behind=one)
            assert not entering.done()
        entering.result(10)
        two.do("leave")


# ---- fair --------------------------------------------------------------------------------------


def test_a_new_reader_does_not_overtake_a_writer_that_waits(
    place: Place, me: Member, other: Member
):
    newcomer = place.member()
    other.do("enter", "read")
    writing = me.begin("enter", "write")
    until_it_waits(me, behind=other)
    reading = newcomer.begin("enter", "read")
    wait_until(lambda: waiting(me) == 2)
    other.do("leave")
    writing.result(10)
    assert not reading.done()
    me.do("leave")
    reading.result(10)
    newcomer.do("leave")


# ---- given up ----------------------------------------------------------------------------------


@every_kind
def test_a_wait_that_times_out_holds_nothing(me: Member, other: Member, kind: str):
    with other.inside("write"), pytest.raises(TimeoutError):
        me.do("enter", kind, 0.02)
    assert waiting(me) == 0
    with other.inside("write"):
        pass
    with me.inside(kind):  # it can ask again
        pass


@only_tasks
@every_kind
def test_a_wait_that_is_cancelled_holds_nothing(me: Task, other: Member, kind: str):
    with other.inside("write"):
        entering = me.begin("enter", kind)
        until_it_waits(me, behind=other)
        me.cancel()
        with pytest.raises(CancelledError):
            entering.result(10)
    assert waiting(me) == 0
    with other.inside("write"):
        pass
    with me.inside(kind):
        pass


# ---- converted ---------------------------------------------------------------------------------


def test_a_lone_reader_becomes_the_writer_and_a_reader_again(me: Member, other: Member):
    with me.inside("read"):
        assert me.do("upgrade") is True
        me.do("store", 1)
        assert not other.do("try_to_enter", "read")
        me.do("downgrade")
        with other.inside("read"):
            assert me.do("load") == 1


def test_an_upgrade_waits_for_other_readers_and_says_if_one_may_have_written(
    me: Member, other: Member
):
    with me.inside("read"):
        with other.inside("read"):
            upgrading = me.begin("upgrade")
            until_it_waits(me, behind=other)
            assert not upgrading.done()
        assert upgrading.result(10) is shares_a_loop(me, other)
        assert not other.do("try_to_enter", "read")


# ---- ended -------------------------------------------------------------------------------------


@only_managed
@only_processes
@every_kind
def test_the_next_one_is_told_that_a_writer_died_and_holds_nothing(
    region: Region, me: Member, other: Process, kind: str
):
    other.do("enter", "write")
    entering = me.begin("enter", kind)
    until_it_waits(me, behind=other)
    other.kill()
    with pytest.raises(OwnerDiedError):
        entering.result(10)
    with pytest.raises(OwnerDiedError):
        me.do("enter", kind)
    with region.write_lock(recover=True, timeout=10):
        pass
    with me.inside(kind):
        pass


@every_kind
def test_a_wait_ends_when_the_region_is_closed(
    region: Region, me: Member, other: Member, kind: str
):
    with other.inside("write"):
        entering = me.begin("enter", kind)
        until_it_waits(me, behind=other)
        region.close()
        with pytest.raises(RegionClosedError):
            entering.result(10)
    with pytest.raises(RegionClosedError):
        me.do("enter", kind)


# ---- one hold ----------------------------------------------------------------------------------


@every_kind
def test_a_hold_is_not_entered_twice_at_once(me: Member, kind: str):
    with me.inside(kind):
        with pytest.raises(RuntimeError, match="in use"):
            me.do("enter_again")
        me.do("load")  # it is still held
    me.do("enter_again")
    me.do("leave")


@every_kind
def test_the_view_ends_with_the_lock(me: Member, kind: str):
    with me.inside(kind):
        view = me.do("view")
        assert view.readonly is (kind == "read")
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(RuntimeError, match="not held"):
        me.do("view")


def test_each_conversion_ends_the_view_and_makes_another(me: Member):
    with me.inside("read"):
        reading = me.do("view")
        me.do("upgrade")
        writing = me.do("view")
        assert not writing.readonly
        me.do("downgrade")
        assert me.do("view").readonly
    for view in (reading, writing):
        with pytest.raises(ValueError, match="released"):
            view[0]
