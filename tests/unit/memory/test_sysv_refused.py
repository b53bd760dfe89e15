"""System V segments: what is refused, and by whom."""

import contextlib
import errno
import os

import pytest
from privileges import needs
from sysv_segments import companion, foreign, in_another_process

from shm_async import (
    Region,
    RegionExistsError,
    RegionFormatError,
    RegionNotFoundError,
    _native,
)


@pytest.mark.parametrize("bad", [0, -1, 2**32, -(2**31)])
@pytest.mark.parametrize("make", [Region.create, Region.attach, Region.open])
def test_keys_out_of_range_are_refused(bad: int, make):
    with pytest.raises(ValueError, match="key"):
        make(bad, 1)


def test_only_create_takes_none():
    for make in (Region.attach, Region.open):
        with pytest.raises(TypeError, match="must be a str"):
            make(None, 1)


@pytest.mark.parametrize("make", [Region.create, Region.open])
def test_sized_is_for_names(key: int, make):
    with pytest.raises(ValueError, match="sized"):
        make(key, 1, layout="sized")


def test_a_taken_key_is_an_error_that_names_it(key: int):
    with Region.create(key, 1) as region:
        with pytest.raises(RegionExistsError, match=f"{key:#010x}") as caught:
            Region.create(key, 1)
        assert caught.value.errno == errno.EEXIST
        region.unlink()


def test_a_missing_key_is_an_error_that_names_it(key: int):
    with pytest.raises(RegionNotFoundError, match=f"{key:#010x}") as caught:
        Region.attach(key)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EINVAL, "SHMMAX"), (errno.ENOSPC, "shmmni.*shmall"), (errno.ENOMEM, "memory")],
)
def test_what_the_kernel_refuses_is_explained(key: int, monkeypatch, code: int, says: str):
    monkeypatch.setattr(_native, "sysv_create", lambda *_, **__: -code)
    with pytest.raises(OSError, match=f"(?s)4096.*{says}|8192.*{says}") as caught:
        Region.create(key, 4096)
    assert caught.value.errno == code
    assert not companion(key).exists()


def test_a_size_beyond_the_kernels_is_refused(key: int):
    with pytest.raises(OSError, match="bytes"):
        Region.create(key, 2**62, reserve=False)
    with pytest.raises(OSError, match="memory and swap"):
        Region.create(key, 2**50)


def test_a_segment_removed_while_it_is_attached_is_not_found(key: int, monkeypatch):
    number = foreign(key, 8)
    original = _native.sysv_stat

    def removed_meanwhile(which):
        found = original(which)
        _native.sysv_remove(which)
        return found

    monkeypatch.setattr(_native, "sysv_stat", removed_meanwhile)
    with pytest.raises(RegionNotFoundError):
        Region.attach(key)
    assert _native.sysv_stat(number)[0] < 0


@needs("another user")
def test_a_stranger_is_refused_by_mode_by_owner_and_at_removal(key: int):
    program = """
import os, sys
from shm_async import Region
key = int(sys.argv[1])
os.setresuid(65534, 65534, 65534)
def says(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "fine"
def use(**keywords):
    with Region.attach(key, **keywords) as region:
        with region.read_lock():
            pass
        if keywords.get("unlink") is None:
            return region
print(says(lambda: use()), says(lambda: use(readonly=True)))
def remove():
    with Region.attach(key, readonly=True) as region:
        region.unlink()
print(says(remove))
"""
    with Region.create(key, 8) as region:
        assert in_another_process(program, key).split() == ["PermissionError"] * 3
        region.unlink()
    with Region.create(key, 8, mode=0o644) as region:
        assert in_another_process(program, key).split() == [
            "PermissionError",
            "fine",
            "PermissionError",
        ]
        region.unlink()


@needs("others' files")
def test_a_companion_that_a_stranger_planted_is_refused(key: int):
    foreign(key, 8)
    companion(key).touch(0o666)
    os.chown(companion(key), 65534, 65534)
    with pytest.raises(PermissionError, match="65534"), Region.attach(key):
        pass
    with Region.attach(key, owner="any") as region, region.write_lock():
        pass
    region.unlink()


@pytest.mark.parametrize(
    "plant", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)]
)
def test_what_is_no_companion_is_not_touched(key: int, plant):
    foreign(key, 8)
    plant(companion(key))
    try:
        with pytest.raises(RegionFormatError, match="shm_async.sysv.*is a"):
            Region.attach(key)
    finally:
        with contextlib.suppress(IsADirectoryError):
            companion(key).unlink()
        with contextlib.suppress(FileNotFoundError):
            companion(key).rmdir()
