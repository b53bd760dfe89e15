"""Resizing: another object under the same name, and how all who are attached find out."""

import os
import signal
import stat

import pytest
from looking import is_mapped
from privileges import needs
from traces import temporary_objects
from waits import wait_until

from shm_async import OwnerDiedError, Region, prune
from shm_async._memory import names, posix, replacing

# ---- what becomes of the region ----------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 8, 9, 600, 200_000])
def test_the_data_is_kept_and_new_elements_are_zero(region: Region, name: str, length: int):
    with region.write_lock() as view:
        view[:] = memoryview(b"".join(i.to_bytes(8, "little") for i in range(8))).cast("Q")
    region.resize(length)
    kept = min(length, 8)
    assert (len(region), region.nbytes, region.shape) == (length, 8 * length, (length,))
    with region.read_lock() as view:
        assert list(view[:kept]) == list(range(kept))
        assert not any(view[kept:])
    with Region.attach(name, length) as newcomer:
        assert newcomer.snapshot() == region.snapshot()
        assert newcomer.dtype == "uint64"
    assert region.linked


def test_the_same_size_changes_nothing(region: Region):
    identity = region._attachment.segment.identity
    region.resize(8)
    assert region._attachment.segment.identity == identity


def test_several_dimensions_keep_all_but_the_first(name: str):
    with Region.create(name, shape=(2, 3), dtype="uint8") as region:
        with region.write_lock() as view:
            view[1, 2] = 7
        region.resize(shape=(4, 3))
        assert region.shape == (4, 3)
        with region.read_lock() as view:
            assert view[1, 2] == 7
        region.resize(6)
        assert region.shape == (2, 3)
        for bad in ((2, 4), (1, 2, 3)):
            with pytest.raises(ValueError, match="only the first dimension"):
                region.resize(shape=bad)
        with pytest.raises(ValueError, match="only the first dimension"):
            region.resize(7)
        assert region.shape == (2, 3)


def test_mode_and_sparseness_stay(name: str):
    with Region.create(name, 8, mode=0o640, reserve=False) as region:
        region.resize(10_000)
        found = os.stat(f"/dev/shm/{name}")
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert found.st_blocks * 512 < 10_000, "it was made sparse on purpose"


@needs("giving files away")
def test_the_owner_stays(name: str):
    with Region.create(name, 8, mode=0o640) as region:
        os.chown(f"/dev/shm/{name}", 65534, 65533)
        region.resize(10_000)
        found = os.stat(f"/dev/shm/{name}")
        assert stat.S_IMODE(found.st_mode) == 0o640
        assert (found.st_uid, found.st_gid) == (65534, 65533)


def test_holes_stay_holes(name: str):
    pages = 64
    with Region.create(name, pages * 4096, reserve=False, unlink="creator") as region:
        for page in (0, 7, 8, 63):
            region.buffer[page * 4096 + page] = page + 1
        region.resize(60 * 4096)
        region.resize(pages * 4096)
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 == 4 * 4096  # and the control page
        stored = {i: value for i, value in enumerate(region.buffer) if value}
        assert stored == {0: 1, 7 * 4096 + 7: 8, 8 * 4096 + 8: 9}


def test_memory_is_reserved(region: Region, name: str):
    region.resize(100_000)
    assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 800_000


def test_the_generation_goes_on(region: Region):
    before = region.generation
    region.resize(9)
    assert region.generation == before + 2
    with region.write_lock():
        pass
    assert region.generation == before + 4


def test_what_was_counted_is_kept(region: Region):
    with region.write_lock():
        pass
    region.resize(9)
    with region.write_lock():
        pass
    assert region.statistics().writes == 3


def test_the_old_object_goes_when_nobody_has_it_mapped(region: Region):
    old = region._attachment.segment.identity
    assert is_mapped(old)
    region.resize(10_000)
    assert not is_mapped(old)


def test_a_view_of_the_old_one_is_stale_but_no_crash(region: Region):
    view = region.buffer
    region.resize(1)
    view[7] = 5
    assert region.buffer[0] == 0


def test_two_can_resize_it_again_and_again(name: str, other: Region):
    with Region.attach(name, follow=True) as another:
        for length in range(1, 40):
            (another, other)[length % 2].resize(length)
        for each in (another, other):
            with each.write_lock() as view:
                assert len(view) == 39


# ---- deaths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["before the word", "before the name", "after the name"])
def test_who_is_killed_while_resizing_leaves_the_old_one_or_the_new_one(
    region: Region, other: Region, name: str, monkeypatch, step: str
):
    region.buffer[0] = 5
    mine = os.getpid()  # the child's name for it: tests beside this one have others
    monkeypatch.setattr(replacing.os, "urandom", lambda size: mine.to_bytes(size, "big"))
    temporary = f"{names.SUCCESSOR}{mine:016x}"

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        where, what = {
            "before the word": (posix, "leads_to"),
            "before the name": (posix.os, "rename"),
            "after the name": (Region, "_move_to"),
        }[step]
        monkeypatch.setattr(where, what, die)
        region.resize(16)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    length = 16 if step == "after the name" else 8
    with other.write_lock(timeout=1) as view:
        assert (len(view), view[0]) == (length, 5)
    assert not other._now().control().replaced
    left = [temporary] if step != "after the name" else []
    assert [entry for entry in temporary_objects() if entry == temporary] == left
    # a dead process's mappings stay while another one reads which it has
    wait_until(lambda: prune(temporary, dry_run=False) == left)
    other.resize(17)  # and life goes on
    with Region.attach(name) as newcomer:
        assert len(newcomer) == 17


def test_a_word_that_nobody_made_true_is_cleared_by_who_finds_it(region: Region):
    control = region._now().control()
    control.replaced = 1
    with region.read_lock():
        assert control.replaced == 0


def test_a_reader_alone_cannot_clear_it_and_goes_on(region: Region, name: str):
    control = region._now().control()
    with Region.attach(name, readonly=True) as reader:
        control.replaced = 1
        with reader.read_lock():
            pass
        assert reader.snapshot() == bytes(64)


def test_a_dead_writer_is_told_of_before_resizing(region: Region):
    pid = os.fork()
    if pid == 0:
        with region.write_lock():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(OwnerDiedError):
        region.resize(16)
    assert len(region) == 8
