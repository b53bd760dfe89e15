"""Attaching to a POSIX object: what is checked, and what is never touched."""

import errno
import os
import socket
from pathlib import Path

import pytest
from privileges import needs

from shm_async import (
    Region,
    RegionFormatError,
    RegionNotFoundError,
)


def test_attaching_to_nothing(name: str):
    with pytest.raises(RegionNotFoundError, match="no such region") as caught:
        Region.attach(name)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)


def make_fifo(path: str) -> None:
    os.mkfifo(path)


def make_directory(path: str) -> None:
    os.mkdir(path)


def make_symlink(path: str) -> None:
    os.symlink("/etc/hostname", path)


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def make_hard_link(path: str) -> None:
    Path(path + "-other").write_bytes(bytes(100))
    os.link(path + "-other", path)


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_fifo, "a FIFO"),
        (make_directory, "a directory"),
        (make_symlink, "a symbolic link"),
        (make_socket, "a socket"),
        (make_hard_link, "2 hard links"),
    ],
)
@pytest.mark.timeout(30)
def test_what_is_no_shared_memory_is_named_and_never_hangs(
    name: str, make, says: str, readonly: bool
):
    path = f"/dev/shm/{name}"
    make(path)
    try:
        with pytest.raises(RegionFormatError, match=says):
            Region.attach(name, readonly=readonly)
        with pytest.raises(RegionFormatError, match=says):
            Region.open(name, 1)
        assert os.path.lexists(path)
    finally:
        if make is make_directory:
            os.rmdir(path)
        if make is make_hard_link:
            os.unlink(path + "-other")


@needs("others' files")
def test_another_users_region_needs_trust(name: str):
    with Region.create(name, 1):
        os.chown(f"/dev/shm/{name}", 12345, -1)
        with pytest.raises(PermissionError, match="user 12345.*owner='any'") as caught:
            Region.attach(name)
        assert caught.value.errno == errno.EACCES
        Region.attach(name, owner="any").close()
        Region.open(name, 1, owner="any").close()


@pytest.mark.parametrize("owner", ["", "root", None, -1, True])
def test_an_unknown_owner_is_refused(region: Region, owner: object):
    with pytest.raises(ValueError, match="owner must be"):
        Region.attach(region.name, owner=owner)


@needs("another user")
def test_missing_permission_is_told_with_the_way_out(region: Region, run_python):
    os.chmod(f"/dev/shm/{region.name}", 0o644)
    program = """
import os, sys, shm_async
shm_async.Region  # imported while its files can be read
os.setgid(12345); os.setuid(12345)
try:
    shm_async.Region.attach(sys.argv[1])
except PermissionError as error:
    print(error)
with shm_async.Region.attach(sys.argv[1], readonly=True) as region:
    with region.read_lock() as view:
        print("read", view[0])
"""
    done = run_python(program)
    assert done.stderr == ""
    assert "try readonly=True" in done.stdout
    assert "read 0" in done.stdout


def test_attaching_reserves_what_a_foreign_creator_left_out(name: str):
    Path(f"/dev/shm/{name}").touch()
    os.truncate(f"/dev/shm/{name}", 2**20)
    with Region.attach(name, readonly=True):
        assert os.stat(f"/dev/shm/{name}").st_blocks == 0
    with Region.attach(name):
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 2**20


def test_attaching_respects_what_our_creator_left_out(name: str):
    with Region.create(name, 2**20, reserve=False), Region.attach(name):
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 < 2**20
