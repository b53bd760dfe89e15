"""Who is attached, who removes the name, and what is left when everybody has died."""

import contextlib
import fnmatch
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen

import numpy
import pytest
from conftest import wait_until
from peers import fresh_key, remove_segment, segment_of

from shm_async import Region, RegionNotFoundError, presence, prune, pruning, segment, sysv


@pytest.fixture
def key():
    """A key whose segment and companion go at the end, whatever a test does."""
    key = fresh_key()
    yield key
    remove_segment(key)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(segment.path_of(sysv.companion_of(key)))


@pytest.fixture(params=["name", "key"])
def address(request: pytest.FixtureRequest, name: str) -> object:
    """A name or a key: what holds for both is tested with both."""
    return name if request.param == "name" else request.getfixturevalue("key")


def exists(address: str | int) -> bool:
    if isinstance(address, int):
        return segment_of(address) is not None
    return os.path.exists(f"/dev/shm/{address}")


class Child:
    """A forked child that does one thing, tells, and waits to be told to end."""

    def __init__(self, do: Callable[[], object]) -> None:
        told, self._tell = os.pipe()
        self._hear, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._tell)
                self.kept = do()  # alive until the end
                os.write(say, b".")
                os.read(told, 1)
                code = 0
            finally:
                os._exit(code)
        os.close(told)
        os.close(say)
        assert os.read(self._hear, 1) == b".", "the child failed"

    def end(self, number: int = 0) -> None:
        """Let it end, or kill it."""
        if number:
            os.kill(self.pid, number)
        os.close(self._tell)
        os.close(self._hear)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == -number


# ---- who removes the name --------------------------------------------------------------


def test_by_default_nobody_removes_it(address):
    with Region.create(address, 4):
        pass
    assert exists(address)


def test_the_creator_removes_it_if_that_is_the_policy(address):
    with (
        Region.create(address, 4, unlink="creator"),
        Region.attach(address, unlink="creator") as other,
    ):
        other.close()  # has not created it
        assert exists(address)
    assert not exists(address)


def test_a_forked_child_is_not_the_creator(address):
    with Region.create(address, 4, unlink="creator") as region:
        Child(region.close).end()
        assert exists(address)
    assert not exists(address)


def test_the_last_one_removes_it_if_that_is_its_policy(address):
    one = Region.open(address, 4, unlink="last")
    two = Region.open(address, 4, unlink="last")
    one.close()
    assert exists(address)
    two.close()
    assert not exists(address)


def test_who_has_another_policy_counts_and_does_not_remove(address):
    one = Region.open(address, 4, unlink="last")
    two = Region.open(address, 4)
    one.close()
    two.close()
    assert exists(address)


@pytest.mark.parametrize("number", [0, signal.SIGKILL])
def test_other_processes_count_until_they_end_however_they_end(address, number: int):
    region = Region.create(address, 4, unlink="last")
    child = Child(lambda: Region.attach(address))
    other = Region.attach(address, unlink="last")
    other.close()
    assert exists(address)
    child.end(number)
    region.close()
    assert not exists(address)


def test_a_forked_child_counts_on_its_own_account(address):
    """The child inherits the parent's attachment and makes it its own."""
    region = Region.create(address, 4, unlink="last")
    child = Child(lambda: None)
    region.close()
    assert exists(address), "the child was not counted"
    child.end()
    with Region.attach(address, unlink="last"):
        pass
    assert not exists(address)


def test_a_child_that_closes_is_not_the_last_while_its_parent_is_there(address):
    with Region.create(address, 4, unlink="last") as region:
        Child(region.close).end()
        assert exists(address)
    assert not exists(address)


def test_a_child_whose_parent_was_killed_can_be_the_last(address):
    hear, say = os.pipe()
    told, tell = os.pipe()

    def parent() -> None:
        region = Region.create(address, 4, unlink="last")
        if os.fork() == 0:
            os.read(told, 1)
            region.close()
            os.write(say, b"x" if exists(address) else b"-")
            os._exit(0)

    Child(parent).end(signal.SIGKILL)
    assert exists(address)
    os.write(tell, b".")
    assert os.read(hear, 1) == b"-"
    for fd in (hear, say, told, tell):
        os.close(fd)


def test_a_child_that_cannot_have_a_presence_of_its_own_is_never_the_last(name: str):
    with Region.create(name, 4, unlink="last") as region:

        def close_without_a_descriptor_to_spare() -> None:
            import resource

            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit))
            region._segment.renew(region._usable().mapping)
            assert region._segment.borrowed
            region.close()

        Child(close_without_a_descriptor_to_spare).end()
        assert exists(name)


def test_two_who_close_at_once_leave_nothing(name: str):
    for _ in range(100):
        hear, say = os.pipe()
        children = []
        for _ in range(2):
            if (pid := os.fork()) == 0:
                region = Region.open(name, 1, unlink="last")
                os.close(say)
                os.read(hear, 1)  # ends for both at once
                region.close()
                os._exit(0)
            children.append(pid)
        os.close(hear)
        os.close(say)
        for pid in children:
            os.waitpid(pid, 0)
        assert not exists(name)


def test_whoever_comes_while_the_last_one_leaves_gets_a_region_that_has_its_name(name: str):
    """`open` meets one who is about to unlink: it must not end up with the orphan."""
    region = Region.create(name, 4, unlink="last")
    assert presence.take_alone(region._segment.fd, name)
    hear, say = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(say, b".")
        with Region.open(name, 4) as other:
            os._exit(0 if other.created and other.linked else 1)
    assert os.read(hear, 1) == b"."
    time.sleep(0.02)  # for it to stand before the door; if it does not, nothing is tested
    region.unlink()
    region.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(hear)
    os.close(say)


def test_a_name_that_is_gone_already_is_no_error(address):
    for policy in ("creator", "last"):
        region = Region.create(address, 4, unlink=policy)
        region.unlink()
        region.close()


def test_a_namesake_is_never_removed(name: str):
    region = Region.create(name, 4, unlink="creator")
    os.unlink(f"/dev/shm/{name}")
    with Region.create(name, 4):
        region.close()
        assert exists(name)


def test_a_garbage_collector_never_removes_a_name(name: str):
    region = Region.create(name, 4, unlink="last")
    with pytest.warns(ResourceWarning, match="never closed"):
        del region
    assert exists(name)


def test_a_failed_attach_never_removes_a_name(name: str):
    with Region.create(name, 4):
        with pytest.raises(ValueError, match="ask for fewer"):
            Region.attach(name, 8, unlink="last")
        assert exists(name)


def test_an_unlink_that_is_not_allowed_is_an_error_after_everything_else_is_done(name: str):
    def stranger() -> None:
        os.setgid(65534)
        os.setuid(65534)
        region = Region.open(name, 4, owner="any", unlink="last")
        with pytest.raises(PermissionError):
            region.close()
        assert region.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(region._segment.fd)

    region = Region.create(name, 4, mode=0o666)
    os.chown(f"/dev/shm/{name}", 65533, 65533)
    region.close()
    Child(stranger).end()
    assert exists(name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unlink": "always"}, "'never' or 'creator' or 'last', not 'always'"),
        ({"unlink": None}, "unlink must be"),
        ({"if_unlinked": "close"}, "'ignore' or 'raise', not 'close'"),
    ],
)
def test_an_unknown_policy_is_refused_and_the_known_ones_are_named(name: str, options, says: str):
    for make in (Region.create, Region.open):
        with pytest.raises(ValueError, match=says):
            make(name, 4, **options)
    assert not exists(name)
    with Region.create(name, 4), pytest.raises(ValueError, match=says):
        Region.attach(name, **options)


def test_a_reader_cannot_be_asked_to_be_the_last(name: str):
    with Region.create(name, 4), pytest.raises(ValueError, match="may be written"):
        Region.attach(name, readonly=True, unlink="last")


# ---- prune -------------------------------------------------------------------------------


def pruned(address: str | int, *, dry_run: bool = False) -> bool:
    """Prune that one alone, as others may be at work on this machine."""
    pattern = sysv.name_of(address) if isinstance(address, int) else address
    found = prune(pattern, dry_run=dry_run)
    assert found in ([], [address])
    return bool(found)


def test_prune_removes_what_nobody_is_attached_to(address):
    Region.create(address, 4).close()
    assert pruned(address, dry_run=True)
    assert exists(address)
    assert pruned(address)
    assert not exists(address)
    assert not pruned(address)


def test_prune_only_tells_unless_told_otherwise_and_looks_at_all_names(address):
    Region.create(address, 4).close()
    assert address in prune()
    assert exists(address)


def test_what_is_in_use_stays(address):
    with Region.create(address, 4):
        assert not pruned(address)
        with Region.attach(address, readonly=True) as reader, reader.read_lock():
            assert not pruned(address)
    assert pruned(address)


def test_what_another_process_uses_stays_until_it_dies(address):
    Region.create(address, 4).close()
    child = Child(lambda: Region.attach(address))
    assert not pruned(address)
    child.end(signal.SIGKILL)
    assert pruned(address)


def test_a_view_that_outlived_its_region_keeps_it(name: str):
    with Region.create(name, 4) as region:
        array = numpy.asarray(region.buffer)
    assert not pruned(name)
    del array
    assert pruned(name)


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
    assert pruned(name)


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


def test_another_users_stays_unless_root_asks(name: str):
    Region.create(name, 4, mode=0o666).close()

    def stranger() -> None:
        os.setgid(65534)
        os.setuid(65534)
        assert not pruned(name)

    Child(stranger).end()
    os.chown(f"/dev/shm/{name}", 65533, 65533)
    assert pruned(name)


def test_a_companion_without_its_segment_goes(key: int, name: str):
    companion = sysv.companion_of(key)
    with Region.create(key, 4):
        os.system(f"ipcrm -M {key:#x}")
        assert not pruned(companion), "somebody locks it"
    Path(segment.path_of(companion)).touch()  # as a crash leaves it
    assert not pruned(key)
    assert pruned(companion)
    assert not os.path.exists(segment.path_of(companion))


def test_a_foreign_segments_companion_stays_with_it(key: int):
    with Region.create(key, 4, layout="raw") as region, region.write_lock():
        pass
    assert not pruned(sysv.companion_of(key))
    with Region.attach(key, layout="raw"):
        assert not pruned(sysv.companion_of(key))


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
    assert os.path.exists(segment.path_of(sysv.companion_of(key)))
    companion = sysv.companion_of(key)
    assert pruned(key if step == "after the segment" else companion)
    assert not exists(key)
    assert not os.path.exists(segment.path_of(sysv.companion_of(key)))


def test_a_segment_that_others_made_is_not_taken_for_a_dead_creators(key: int):
    """The creator wrote its pid, met a segment that was there before, and was killed."""
    Region.create(key, 8192, layout="raw").close()
    path = segment.path_of(sysv.companion_of(key))
    Path(path).write_bytes(sysv.AT_WORK.pack(1))
    assert not pruned(key)
    assert exists(key)


def test_who_is_creating_is_left_alone(key: int):
    Region.create(key, 4).close()
    fd = os.open(segment.path_of(sysv.companion_of(key)), os.O_RDWR)
    sysv._claim(fd, key, presence.ALONE)
    assert not pruned(key)
    os.close(fd)
    assert pruned(key)


def test_nobody_can_attach_to_what_is_being_removed(name: str, monkeypatch):
    """At the last moment before the name goes somebody wants in: it gets a new region."""
    Region.create(name, 4).close()
    leads_to = segment.leads_to
    program = """
import sys
from shm_async import Region
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

    monkeypatch.setattr(pruning.segment, "leads_to", come_in_between)
    assert pruned(name)
    assert newcomers[0].communicate(timeout=10)[0] == b"True\n"


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


def test_random_kills_leave_nothing_that_prune_does_not_find(name: str, key: int):
    """Processes that create, lock, resize, unlink and close are killed at random moments."""
    dice = random.Random(4711)
    for seed in range(0, int(os.environ.get("TEST_KILLS", "30")), 2):
        victims = [
            Popen([sys.executable, "-c", VICTIM, name, str(key), str(seed + each)], stdout=PIPE)
            for each in range(2)
        ]
        for victim in victims:
            assert victim.stdout.read(1) == b"."
        for victim in victims:
            time.sleep(dice.random() * 0.02)
            victim.kill()
            victim.wait()
            victim.stdout.close()
        mine = (name, sysv.name_of(key), sysv.companion_of(key), f"{segment.SUCCESSOR}*")
        for pattern in mine:
            prune(pattern, dry_run=False)
        left = os.listdir("/dev/shm")
        assert not [each for pattern in mine for each in fnmatch.filter(left, pattern)], seed
        assert not exists(key), seed


def test_presence_is_what_the_kernel_says(region: Region, name: str):
    wait_until(lambda: os.path.exists(f"/dev/shm/{name}"))
    fd = os.open(f"/dev/shm/{name}", os.O_RDWR)
    assert not presence.take_alone(fd, name)
    assert presence.is_open_elsewhere(fd)
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
