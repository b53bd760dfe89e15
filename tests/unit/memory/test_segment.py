"""Creating a POSIX object: its name, its mode, its memory; and removing it."""

import errno
import os
import threading
from pathlib import Path

import pytest

from shm_async import Region, RegionExistsError, RegionNotFoundError
from shm_async._memory import room

# ---- names -------------------------------------------------------------------------------------


def test_the_leading_slash_is_optional(name: str):
    with Region.create("/" + name, 1) as region, Region.attach(name) as other:
        assert region.name == other.name == name


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ("", "empty"),
        ("/", "empty"),
        ("a/b", "'/'"),
        ("//a", "'/'"),
        ("a/", "'/'"),
        (".", r"'\.\.'"),
        ("..", r"'\.\.'"),
        ("/..", r"'\.\.'"),
        ("a\0b", "NUL"),
        ("x" * 300, "255 bytes"),
        ("ä" * 128, "255 bytes"),
    ],
)
@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
def test_a_bad_name_is_told_its_rule(bad: str, rule: str, make):
    with pytest.raises(ValueError, match=rule):
        make(bad, 1)


@pytest.mark.parametrize("bad", [True, b"name", 7.0, ["name"]])
@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
def test_a_name_must_be_a_str(bad: object, make):
    with pytest.raises(TypeError, match="name must be a str"):
        make(bad, 1)


def test_the_longest_name_and_odd_ones_work():
    for odd in ("n" * 255, "ä" * 127, "a b\n\tc", "-rf", "...", "\udcff"):
        with Region.create(odd, 1) as region:
            region.unlink()


# ---- create ------------------------------------------------------------------------------------


def test_creating_over_something_leaves_it_untouched(region: Region, name: str):
    with region.write_lock() as view:
        view[0] = 42
    before = Path(f"/dev/shm/{name}").read_bytes()
    with pytest.raises(RegionExistsError, match="exists already") as caught:
        Region.create(name, 100)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
    assert Path(f"/dev/shm/{name}").read_bytes() == before


def test_a_dangling_symlink_has_the_name_too(name: str):
    os.symlink("/nowhere", f"/dev/shm/{name}")
    with pytest.raises(RegionExistsError):
        Region.create(name, 1)
    assert os.path.islink(f"/dev/shm/{name}")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666, 0o400, 0])
def test_the_mode_is_exact_whatever_the_umask(name: str, mode: int):
    old = os.umask(0o777)
    try:
        region = Region.create(name, 1, mode=mode)
    finally:
        os.umask(old)
    with region:
        assert os.stat(f"/dev/shm/{name}").st_mode & 0o7777 == mode


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755, 2**40])
def test_a_mode_out_of_range_is_refused(name: str, mode: int):
    with pytest.raises(ValueError, match="mode must be between"):
        Region.create(name, 1, mode=mode)


@pytest.mark.parametrize("mode", ["0600", None, 6.0, True])
def test_a_mode_must_be_an_int(name: str, mode: object):
    with pytest.raises(TypeError, match="mode must be an int"):
        Region.create(name, 1, mode=mode)


def test_memory_is_reserved_unless_asked_otherwise(name: str):
    with Region.create(name, 2**20) as region:
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 2**20
        region.unlink()
    with Region.create(name, 2**20, reserve=False):
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 < 2**20


@pytest.mark.parametrize("length", [2**50, 2**62, 2**63, 2**100])
def test_more_than_there_is_room_for_is_told_with_figures(name: str, length: int):
    with pytest.raises(OSError, match=r"^.* [0-9]+ bytes wanted, [0-9]+ bytes free") as caught:
        Region.create(name, length)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, name)


def test_more_than_memory_is_refused_before_the_killer_comes(name: str, monkeypatch):
    monkeypatch.setattr(room.Host, "memory", lambda *_: room.Memory(2**20, "memory and swap"))
    with pytest.raises(OSError, match="1048576 bytes of memory and swap") as caught:
        Region.create(name, 2**20 + 1)
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize("length", [2**63, 2**100])
def test_a_sparse_object_has_its_limits_too(name: str, length: int):
    with pytest.raises(OSError, match="bytes") as caught:
        Region.create(name, length, reserve=False)
    assert caught.value.errno in (errno.EFBIG, errno.EINVAL, errno.ENOMEM)


def test_creators_race_and_one_wins(name: str):
    barrier = threading.Barrier(8)
    outcomes: list[object] = []

    def create() -> None:
        barrier.wait()
        try:
            outcomes.append(Region.create(name, 1000))
        except RegionExistsError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, Region)]
    assert len(winners) == 1
    assert len(outcomes) == 8
    winners[0].close()


def test_openers_race_and_all_get_the_same_region(name: str):
    barrier = threading.Barrier(8)
    regions: list[Region] = []

    def open_it() -> None:
        barrier.wait()
        regions.append(Region.open(name, 4, dtype="uint64"))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(region.created for region in regions) == [False] * 7 + [True]
    for region in regions:
        with region.write_lock() as view:
            view[0] += 1
    assert regions[0].buffer[0] == 8
    for region in regions:
        region.close()


# ---- unlink ------------------------------------------------------------------------------------


def test_unlinking_twice_is_an_error(region: Region):
    region.unlink()
    with pytest.raises(RegionNotFoundError):
        region.unlink()


def test_unlink_leaves_another_object_of_that_name_alone(region: Region, name: str):
    region.unlink()
    with Region.create(name, 1) as second:
        assert not region.linked
        with pytest.raises(RegionNotFoundError, match="another object"):
            region.unlink()
        assert second.linked


def test_unlink_works_after_close(name: str):
    region = Region.create(name, 1)
    region.close()
    region.unlink()
    assert not os.path.exists(f"/dev/shm/{name}")
