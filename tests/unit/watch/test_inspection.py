"""Inspecting: all that can be known of the regions of this host, and nobody notices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dying import writer_dies
from lives import Child
from looking import look
from peers import segment_of
from rivals import Rival
from waits import wait_until

import shm_async
from shm_async import Region
from shm_async._memory.names import name_of
from shm_async._native import CONTROL_SIZE

# ---- facts -------------------------------------------------------------------------------------


def test_a_region_is_told_with_all_its_facts(name: str):
    with Region.create(name, shape=(2, 3), dtype="float32", mode=0o640) as region:
        with region.write_lock():
            pass
        info = look(name)
    assert (info.name, info.key, info.id, info.linked) == (name, None, None, True)
    assert (info.layout, info.dtype, info.shape, info.nbytes) == ("managed", "float32", (2, 3), 24)
    assert (info.size, info.allocated) == (8192, 8192)
    assert (info.uid, info.gid, info.mode) == (os.geteuid(), os.getegid(), 0o640)
    assert (info.generation, info.writes, info.state) == (2, 1, "idle")
    assert info.written_ago is not None
    assert 0 <= info.written_ago < 30
    assert (info.holders, info.waiters, info.attachments) == ((), (), 1)
    assert [each.pid for each in info.processes] == [os.getpid()]
    assert info.problem is None
    assert info.control is not None
    assert (info.control["nbytes"], info.control["creator_pid"]) == (24, os.getpid())


def test_what_was_never_written_has_no_age(region: Region):
    info = look(region.name)
    assert (info.writes, info.written_ago) == (0, None)


def test_each_attachment_counts(region: Region):
    with Region.attach(region.name), Region.attach(region.name, readonly=True):
        assert look(region.name).attachments == 3
    assert look(region.name).attachments == 1


def test_what_others_made_is_raw(name: str):
    Path(f"/dev/shm/{name}").write_bytes(b"x" * 4096 * 3)
    info = look(name)
    assert (info.layout, info.dtype, info.shape, info.nbytes) == ("raw", None, None, 3 * 4096)
    assert (info.generation, info.writes, info.control, info.problem) == (None, None, None, None)


def test_only_names_that_match_are_told(region: Region):
    # no other test's name ends with a dash and a digit: a process that dies may still have one
    name = f"{region.name}-1"
    with Region.create(name, 8) as other:
        assert [info.name for info in shm_async.inspect(f"{region.name}-?")] == [name]
        other.unlink()
    assert shm_async.inspect("nobody-has-this-name*") == ()


def test_what_is_no_file_is_left_out(name: str):
    os.mkfifo(f"/dev/shm/{name}")
    assert shm_async.inspect(name) == ()


def test_a_key_is_told_beside_names(sysv_key: int):
    with Region.create(sysv_key, 3, dtype="uint16") as region:
        with region.write_lock():
            info = look(region.name)
        assert (info.key, info.id, info.linked) == (sysv_key, region.id, True)
        assert (info.layout, info.dtype, info.shape) == ("managed", "uint16", (3,))
        assert (info.attachments, info.state) == (1, "writing")
        assert [each.pid for each in info.processes] == [os.getpid()]
        assert [each.pid for each in info.holders] == [os.getpid()]
        companion = f"shm_async.sysv.{sysv_key:08x}"
        assert shm_async.inspect(companion) == ()  # it is no region
        region.unlink()
        gone = look(region.name)
        assert (gone.key, gone.id, gone.linked) == (sysv_key, region.id, False)
        assert gone.state == "unlinked but in use"


def last_pid(key: int) -> int:
    """Return who attached or detached it last, which tells more than times in seconds."""
    return (segment_of(key) or {})["lpid"]


def test_a_segment_that_nobody_has_is_not_attached_to_be_read(sysv_key: int):
    Child(lambda: Region.create(sysv_key, 3)).end()
    info = look(name_of(sysv_key))
    assert last_pid(sysv_key) != os.getpid()  # but the maker, or another test that prunes
    assert (info.layout, info.state, info.attachments) == (None, "nobody attached", 0)
    assert "to attach it would count" in (info.problem or "")
    with Region.attach(sysv_key) as region:
        region.unlink()


def test_reading_a_segment_is_no_attaching(sysv_key: int):
    with Child(lambda: Region.create(sysv_key, 3)) as maker:
        assert look(name_of(sysv_key)).layout == "managed"
        assert last_pid(sysv_key) == maker.pid
        maker.end()
    with Region.attach(sysv_key) as region:
        region.unlink()


def test_descriptors_are_told_when_asked_for(region: Region):
    with open(f"/dev/shm/{region.name}", "rb") as file:
        [process] = look(region.name, descriptors=True).processes
        assert process.descriptors is not None
        assert file.fileno() in process.descriptors
    assert look(region.name).processes[0].descriptors is None


def test_a_process_that_has_the_file_open_only_is_told_with_descriptors(region: Region):
    rival = Rival(region.name)
    try:
        info = look(region.name, descriptors=True)
        kinds = {each.pid: each.mapped for each in info.processes}
        assert kinds == {os.getpid(): True, rival.process.pid: False}
        assert [each.pid for each in look(region.name).processes] == [os.getpid()]
    finally:
        rival.close()


# ---- states ------------------------------------------------------------------------------------


def test_a_writer_is_told_with_its_time(region: Region):
    with region.write_lock():
        info = look(region.name)
    [holder] = info.holders
    assert (info.state, holder.pid, holder.kind) == ("writing", os.getpid(), "write")
    assert holder.since is not None
    assert (info.generation, info.writes) == (1, 0)


def test_a_reader_is_told(region: Region):
    with region.read_lock():
        assert look(region.name).state == "reading"


def test_a_program_that_knows_flock_alone_is_told(region: Region, rival: Rival):
    rival.do("exclusive")
    info = look(region.name)
    assert (info.state, [each.pid for each in info.holders]) == ("writing", [rival.process.pid])


def test_those_who_wait_are_told(region: Region, rival: Rival):
    with region.write_lock():
        rival.send("exclusive")
        wait_until(rival.is_blocked)
        info = look(region.name)
        assert [each.pid for each in info.waiters] == [rival.process.pid]
    rival.finish()


def test_a_stopped_holder_is_told(region: Region, rival: Rival):
    rival.do("exclusive")
    os.kill(rival.process.pid, signal.SIGSTOP)
    try:
        assert look(region.name).holders[0].pid == rival.process.pid
    finally:
        os.kill(rival.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("reap", [True, False])
def test_a_writer_that_died_is_told(region: Region, reap: bool):
    pid = writer_dies(region, reap=reap)
    try:
        info = look(region.name)
    finally:
        if not reap:
            os.waitpid(pid, 0)
    assert (info.state, info.generation, info.writes) == ("owner died", 1, 0)


def test_a_death_is_told_although_somebody_has_the_lock_by_now(region: Region, rival: Rival):
    writer_dies(region)
    rival.do("exclusive")
    info = look(region.name)
    assert (info.state, len(info.holders)) == ("owner died", 1)


WRITER = """
import sys
from shm_async import Region
with Region.attach(sys.argv[1]) as region:
    print("ready", flush=True)
    while True:
        with region.write_lock():
            pass
"""


@pytest.mark.long
def test_writers_that_come_and_go_are_never_taken_for_dead(region: Region):
    command = [sys.executable, "-c", WRITER, region.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            states = {look(region.name).state for _ in range(100)}
        finally:
            process.kill()
    assert states <= {"writing", "idle"}


def test_what_nobody_has_attached_is_told(name: str):
    Region.create(name, 4).close()
    info = look(name)
    assert (info.state, info.attachments, info.processes) == ("nobody attached", 0, ())


def test_what_has_lost_its_name_is_told_by_it(name: str):
    with Region.create(name, 4) as region, Region.attach(name):
        region.unlink()
        info = look(name)
        assert (info.linked, info.state, info.layout) == (False, "unlinked but in use", "managed")
        assert [each.pid for each in info.processes] == [os.getpid()]
        with Region.create(name, 4) as second:
            both = shm_async.inspect(name)
            assert [(each.linked, each.state) for each in both] == [
                (True, "idle"),
                (False, "unlinked but in use"),
            ]
            second.unlink()


def test_a_damaged_region_is_told_with_the_reason(region: Region):
    with open(f"/dev/shm/{region.name}", "r+b") as file:
        file.seek(-CONTROL_SIZE + 24, os.SEEK_END)
        file.write(b"\xff" * 8)
    info = look(region.name)
    assert (info.state, info.layout, info.generation) == ("damaged", "managed", None)
    assert "its checksum is wrong" in (info.problem or "")
    assert info.control is not None
    assert info.control["nbytes"] == 2**64 - 1
