"""Pruning: what nobody is attached to goes, and everything else stays."""

import contextlib
import fnmatch
import mmap
import os
import random
import signal
import sys
import time
from inspect import signature
from pathlib import Path
from subprocess import PIPE, Popen

import numpy
import pytest
from lives import Child, exists
from privileges import needs
from waits import wait_until

from shm_async import Region, RegionNotFoundError, prune
from shm_async._memory import companion as companions
from shm_async._memory import leases, names, presence, sysv
from shm_async._memory import prune as pruning


def pruned(address: str | int, *, dry_run: bool = False) -> bool:
    """Prune that one alone, as others may be at work on this machine."""
    pattern = names.name_of(address) if isinstance(address, int) else address
    found = prune(pattern, dry_run=dry_run)
    assert found in ([], [address])
    return bool(found)


def until_pruned(address: str | int, *, dry_run: bool = False) -> None:
    """Prune it as soon as nothing keeps it.

    While another test lists what processes have mapped, a dead one's mappings stay; and one that
    inspects the whole host has each object open for a moment.
    """
    wait_until(lambda: pruned(address, dry_run=dry_run))


def test_prune_removes_what_nobody_is_attached_to(address):
    Region.create(address, 4).close()
    until_pruned(address, dry_run=True)
    assert exists(address)
    until_pruned(address)
    assert not exists(address)
    assert not pruned(address)


def test_prune_only_tells_unless_told_otherwise(address):
    Region.create(address, 4).close()
    assert prune(names.name_of(address) if isinstance(address, int) else address) == [address]
    assert exists(address)


def test_prune_looks_at_all_names_unless_told_otherwise(address):
    # not called so: it would attach the segments of the tests beside this one
    assert signature(prune).parameters["pattern"].default == "*"
    Region.create(address, 4).close()
    pattern = names.name_of(address)[2:] if isinstance(address, int) else address
    assert prune(f"*{pattern}") == [address]


def test_a_look_leaves_the_access_times_alone(name: str):
    Region.create(name, 4).close()
    os.utime(f"/dev/shm/{name}", ns=(0, 0))  # older than the change: an access would be noted
    until_pruned(name, dry_run=True)
    assert os.stat(f"/dev/shm/{name}").st_atime_ns == 0


def test_what_is_in_use_stays(address):
    with Region.create(address, 4):
        assert not pruned(address)
        with Region.attach(address, readonly=True) as reader, reader.read_lock():
            assert not pruned(address)
    until_pruned(address)


def test_what_another_process_uses_stays_until_it_dies(address):
    Region.create(address, 4).close()
    with Child(lambda: Region.attach(address)) as child:
        assert not pruned(address)
        child.end(signal.SIGKILL)
    until_pruned(address)


def test_a_view_that_outlived_its_region_keeps_it(name: str):
    with Region.create(name, 4) as region:
        array = numpy.asarray(region.buffer)
    assert not pruned(name)
    del array
    until_pruned(name)


@pytest.mark.parametrize("keep", ["descriptor", "mapping"])
@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_RDWR])
def test_a_program_that_knows_nothing_of_us_keeps_it(name: str, keep: str, access: int):
    Region.create(name, 4).close()
    fd = os.open(f"/dev/shm/{name}", access)
    memory = None
    if keep == "mapping":
        memory = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
        os.close(fd)
    assert not pruned(name)
    if memory is None:
        os.close(fd)
    else:
        memory.close()
    until_pruned(name)


def test_prune_survives_whoever_opens_it_at_that_moment(run_python, name: str):
    """The kernel tells a lease's holder by a signal, whose default is to kill it."""
    program = """
import os, sys, threading
from shm_async import Region, prune
name, stop = sys.argv[1], threading.Event()
if (pid := os.fork()) == 0:
    while True:
        try: os.close(os.open(f"/dev/shm/{name}", os.O_RDONLY))
        except FileNotFoundError: pass
for _ in range(300):
    Region.open(name, 4).close()
    prune(name, dry_run=False)
os.kill(pid, 9); os.waitpid(pid, 0)
print("alive")
"""
    assert run_python(program).stdout == "alive\n"


@pytest.mark.parametrize("layout", ["raw", "sized"])
def test_what_is_not_managed_stays(name: str, layout):
    Region.create(name, 8192, layout=layout).close()
    assert not pruned(name)
    assert exists(name)


def test_a_raw_segment_stays(key: int):
    Region.create(key, 8192, layout="raw").close()
    assert not pruned(key)
    assert exists(key)


def test_a_damaged_one_stays(name: str):
    Region.create(name, 4).close()
    path = Path(f"/dev/shm/{name}")
    content = bytearray(path.read_bytes())
    content[4096] ^= 1
    path.write_bytes(content)
    assert not pruned(name)


def test_what_only_looks_like_one_stays(name: str):
    Region.create(name, 4).close()
    os.rename(f"/dev/shm/{name}", f"/dev/shm/{name}.kept")
    os.symlink(f"/dev/shm/{name}.kept", f"/dev/shm/{name}")
    try:
        assert not pruned(name)
        os.link(f"/dev/shm/{name}.kept", f"/dev/shm/{name}.twice")
        assert not pruned(f"{name}.kept"), "it has two names"
        assert not pruned(f"{name}.twice")
    finally:
        os.unlink(f"/dev/shm/{name}.kept")
        os.unlink(f"/dev/shm/{name}.twice")


@needs("another user", "others' files")
def test_another_users_stays_unless_root_asks(name: str):
    Region.create(name, 4, mode=0o666).close()

    def stranger() -> None:
        os.setgid(65534)
        os.setuid(65534)
        assert not pruned(name)

    Child(stranger).end()
    os.chown(f"/dev/shm/{name}", 65533, 65533)
    until_pruned(name)


def test_a_companion_without_its_segment_goes(key: int, name: str):
    companion = names.companion_of(key)
    with Region.create(key, 4):
        os.system(f"ipcrm -M {key:#x}")
        assert not pruned(companion), "somebody locks it"
    Path(names.path_of(companion)).touch()  # as a crash leaves it
    assert not pruned(key)
    until_pruned(companion)
    assert not os.path.exists(names.path_of(companion))


def test_a_foreign_segments_companion_stays_with_it(key: int):
    with Region.create(key, 4, layout="raw") as region, region.write_lock():
        pass
    assert not pruned(names.companion_of(key))
    with Region.attach(key, layout="raw"):
        assert not pruned(names.companion_of(key))


@pytest.mark.parametrize("step", ["before the segment", "after the segment"])
def test_what_a_creator_left_that_was_killed_goes(key: int, monkeypatch, step: str):
    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        if step == "before the segment":
            monkeypatch.setattr(sysv._native, "sysv_create", die)
        else:
            monkeypatch.setattr(sysv._native, "sysv_stat", die)
        Region.create(key, 4)
        os._exit(1)
    os.waitpid(pid, 0)
    assert exists(key) == (step == "after the segment")
    assert os.path.exists(names.path_of(names.companion_of(key)))
    companion = names.companion_of(key)
    until_pruned(key if step == "after the segment" else companion)
    assert not exists(key)
    assert not os.path.exists(names.path_of(names.companion_of(key)))


def test_a_segment_that_others_made_is_not_taken_for_a_dead_creators(key: int):
    """The creator wrote its pid, met a segment that was there before, and was killed."""
    Region.create(key, 8192, layout="raw").close()
    path = names.path_of(names.companion_of(key))
    Path(path).write_bytes(companions.AT_WORK.pack(1))
    assert not pruned(key)
    assert exists(key)


def test_who_is_creating_is_left_alone(key: int):
    Region.create(key, 4).close()
    fd = os.open(names.path_of(names.companion_of(key)), os.O_RDWR)
    companions.claim(fd, key, presence.ALONE)
    assert not pruned(key)
    os.close(fd)
    until_pruned(key)


def test_nobody_can_attach_to_what_is_being_removed(name: str, monkeypatch):
    """At the last moment before the name goes somebody wants in: it gets a new region."""
    Region.create(name, 4).close()
    leads_to = names.leads_to
    program = """
import sys
from shm_async import Region
from shm_async._memory import presence
presence.PATIENCE = 60  # it waits for the prune, which may be stopped for a while
with Region.open(sys.argv[1], 4) as region:
    print(region.created and region.linked)
"""
    newcomers = []

    def come_in_between(*arguments: object) -> bool:
        newcomers.append(Popen([sys.executable, "-c", program, name], stdout=PIPE))
        wait_until(lambda: name in targets(newcomers[0].pid))
        return leads_to(*arguments)

    def targets(pid: int) -> list[str]:
        """The objects that a process has open."""
        found = []
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found.append(os.readlink(f"/proc/{pid}/fd/{fd}").rpartition("/")[2])
        return found

    monkeypatch.setattr(pruning, "leads_to", come_in_between)
    until_pruned(name)
    assert newcomers[0].communicate(timeout=40)[0] == b"True\n"


VICTIM = """
import os, random, sys
from shm_async import Region, ShmError
name, key, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.write(1, b".")
def live(dice):
    address = dice.choice([name, key])
    region = Region.open(address, 4, unlink=dice.choice(["never", "creator", "last"]),
                         follow=True, on_owner_death="ignore")
    for _ in range(dice.randrange(4)):
        with region.write_lock() as view:
            view[0] += 1
    if address == name and dice.random() < 0.5:
        region.resize(dice.randrange(4, 9000))
    if dice.random() < 0.3:
        region.unlink()
    region.close()
def main():
    dice = random.Random(seed)
    while True:
        try: live(dice)
        except (OSError, ShmError): pass  # another one unlinked or resized it, or was killed
main()
"""


def left_by_prune(patterns: tuple[str, ...]) -> list[str]:
    for pattern in patterns:
        prune(pattern, dry_run=False)
    left = os.listdir("/dev/shm")
    return [each for pattern in patterns for each in fnmatch.filter(left, pattern)]


@pytest.mark.long
def test_random_kills_leave_nothing_that_prune_does_not_find(name: str, key: int):
    """Processes that create, lock, resize, unlink and close are killed at random moments."""
    dice = random.Random(4711)
    mine = (name, names.name_of(key), names.companion_of(key), f"{names.SUCCESSOR}*")
    for seed in range(0, int(os.environ.get("TEST_KILLS", "30")), 2):
        victims = [
            Popen([sys.executable, "-c", VICTIM, name, str(key), str(seed + each)], stdout=PIPE)
            for each in range(2)
        ]
        print("seed", seed)
        for victim in victims:
            assert victim.stdout.read(1) == b"."
        for victim in victims:
            time.sleep(dice.random() * 0.02)
            victim.kill()
            victim.wait()
            victim.stdout.close()
        wait_until(lambda: not left_by_prune(mine))
        assert not exists(key), seed


def test_presence_is_what_the_kernel_says(region: Region, name: str):
    wait_until(lambda: os.path.exists(f"/dev/shm/{name}"))
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
    assert not presence.take_alone(fd, name)
    assert leases.is_open_elsewhere(fd)
    os.close(fd)


def test_a_region_that_is_stuck_in_removal_is_an_error_with_its_name(name: str, monkeypatch):
    monkeypatch.setattr(presence, "PATIENCE", 0.05)
    Region.create(name, 4).close()
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
    assert presence.take_alone(fd, name)
    with pytest.raises(OSError, match="removing it for 0.05 s") as caught:
        Region.attach(name)
    assert caught.value.filename == name
    os.close(fd)
    with pytest.raises(RegionNotFoundError):
        Region.attach(f"{name}-other")
