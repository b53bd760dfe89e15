"""When a writer dies: who is told, who may go in all the same, and what makes it sound again."""

import os
import signal
import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from cohorts import queued
from dying import a_writer_dies_on_the_way, is_sound, is_sound_elsewhere, story, writer_dies
from entrances import WAYS
from privileges import needs
from rivals import Rival, blocked_in_flock
from waits import until, wait_until

from shm_async import Hold, OwnerDiedError, Region
from shm_async._lock.cohort import Cohort
from shm_async._lock.seat import Seat
from shm_async._memory.control import pid_namespace, process_identity, start_of

# ---- who is told -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
async def test_whoever_takes_a_free_lock_is_told_of_a_dead_writer_and_holds_nothing(
    region: Region, rival: Rival, way: Callable[[Hold], Awaitable[None]], kind: str
):
    pid = writer_dies(region)
    for _ in range(2):  # to be told changes nothing
        with pytest.raises(
            OwnerDiedError, match=f"process {pid} died while it wrote; take"
        ) as caught:
            await way(getattr(region, kind)())
        assert caught.value.pid == pid
        assert caught.value.start > 0
        assert rival.do("try-exclusive") == "done"
        rival.do("unlock")
    assert region.generation % 2 == 1
    figures = region.statistics()
    assert (figures.reads, figures.writes) == (0, 0)


@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
async def test_all_who_wait_in_a_loop_are_told(region: Region, rival: Rival, kind: str):
    pid = writer_dies(region)
    told = []

    async def want() -> None:
        try:
            async with getattr(region, kind)():
                raise AssertionError("it may not go in")
        except OwnerDiedError as error:
            told.append(error.pid)

    rival.do("exclusive")
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(want)
        await until(lambda: queued(region) == 3)
        rival.do("unlock")
    assert told == [pid] * 3
    assert rival.do("try-exclusive") == "done"
    assert rival.do("gate") == "done"
    figures = region.statistics()
    assert (figures.reads, figures.writes, figures.cancelled) == (0, 0, 3)


@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
def test_a_thread_that_waits_is_told(region: Region, rival: Rival, kind: str):
    pid = writer_dies(region)
    told = []

    def want() -> None:
        with pytest.raises(OwnerDiedError) as caught:
            getattr(region, kind)().acquire_blocking()
        told.append(caught.value.pid)

    rival.do("exclusive")
    thread = threading.Thread(target=want)
    thread.start()
    wait_until(lambda: blocked_in_flock(os.getpid()))
    rival.do("unlock")
    thread.join()
    assert told == [pid]
    assert rival.do("try-exclusive") == "done"
    assert rival.do("gate") == "done"


def test_a_readonly_attachment_is_told(region: Region):
    pid = writer_dies(region)
    with Region.attach(region.name, readonly=True) as reader:
        with pytest.raises(OwnerDiedError, match=str(pid)):
            reader.read_lock().acquire_blocking()


async def test_an_upgrade_is_told_of_one_who_died_on_the_way(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = region.read_lock()
    async with hold:
        assert rival.do("shared") == "done"
        pids = a_writer_dies_on_the_way(monkeypatch, Cohort, "enter", region, rival)
        with pytest.raises(OwnerDiedError) as caught:
            await hold.upgrade()
        assert [caught.value.pid] == pids
        with pytest.raises(RuntimeError, match="not held"):
            _ = hold.view
    assert rival.do("try-exclusive") == "done"


def test_a_blocking_upgrade_is_told_of_one_who_died_on_the_way(
    region: Region, rival: Rival, monkeypatch: pytest.MonkeyPatch
):
    hold = region.read_lock()
    with hold:
        assert rival.do("shared") == "done"
        pids = a_writer_dies_on_the_way(monkeypatch, Seat, "wait", region, rival)
        with pytest.raises(OwnerDiedError) as caught:
            hold.upgrade_blocking()
        assert [caught.value.pid] == pids
    assert rival.do("try-exclusive") == "done"


async def test_an_exception_is_no_death(region: Region):
    with pytest.raises(ZeroDivisionError):
        with region.write_lock():
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with region.write_lock():
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with region.write_lock():
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert await is_sound_elsewhere(region)


def test_a_reader_who_dies_is_no_death(region: Region):
    if (child := os.fork()) == 0:
        with region.read_lock():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_sound(region)


def test_a_raw_region_cannot_tell(name: str):
    with Region.create(name, 8, layout="raw") as region:
        writer_dies(region)
        with region.write_lock(recover=True) as view:
            assert view[0] == 1


# ---- who it was --------------------------------------------------------------------------------


def pretend(region: Region, pid: int, start: int, namespace: int | None = None) -> None:
    """Change who the last writer was."""
    control = region._now().control()
    control.writer_pid, control.writer_start = pid, start
    control.writer_ns = pid_namespace() if namespace is None else namespace


def test_it_is_told_who_died(region: Region):
    pid, start = process_identity()
    dead = writer_dies(region)
    assert dead != pid
    error = story(region)
    assert error.pid == dead
    assert error.start >= start
    pretend(region, pid, start)
    assert "is alive, but its event loop ended while it wrote" in str(story(region))
    pretend(region, pid, start - 1)
    assert "a later process has its pid now" in str(story(region))
    pretend(region, pid, 0)
    assert "died while it wrote; take" in str(story(region))
    pretend(region, 2**32 - 1, 2**64 - 1)
    assert story(region).pid == 2**32 - 1


ELSEWHERE = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x20000000):  # CLONE_NEWPID
    sys.exit("cannot unshare")
if os.fork():
    os.wait()
    sys.exit()
from shm_async import Region
region = Region.attach(sys.argv[1])
hold = region.write_lock()
hold.acquire_blocking()
print(os.getpid(), os.stat("/proc/self/ns/pid").st_ino, flush=True)
os._exit(0)  # the lock goes, the mark stays
"""


@needs("a pid namespace")
def test_a_death_in_another_pid_namespace_is_told_as_such(region: Region, run_python):
    done = run_python(ELSEWHERE)
    assert done.stderr == ""
    pid, namespace = map(int, done.stdout.split())
    error = story(region)
    assert (error.pid, error.namespace) == (1, namespace) == (pid, error.namespace)
    assert error.namespace != pid_namespace()
    assert f"process 1 of another pid namespace (pid:[{namespace}]" in str(error)
    with pytest.raises(ZeroDivisionError), region.write_lock(recover=True):
        raise ZeroDivisionError  # what is not put right keeps its dead writer's name
    assert story(region).namespace == namespace
    with region.write_lock(recover=True):
        pass
    writer = writer_dies(region)
    assert (story(region).pid, story(region).namespace) == (writer, pid_namespace())


def test_a_pid_of_another_namespace_is_not_taken_for_one_of_ours(region: Region):
    writer_dies(region)
    pretend(region, *process_identity(), namespace=1)
    assert f"process {os.getpid()} of another pid namespace (pid:[1]" in str(story(region))
    pretend(region, 1, 0, namespace=0)
    assert "died while it wrote (as its pid namespace counts, which is not known)" in str(
        story(region)
    )
    pretend(region, *process_identity(), namespace=0)  # pid and start time are enough
    assert "is alive" in str(story(region))


def test_a_zombie_is_dead(region: Region):
    pid = writer_dies(region, reap=False)
    assert start_of(pid) is None
    assert f"process {pid} died while it wrote; take" in str(story(region))
    os.waitpid(pid, 0)


# ---- kills -------------------------------------------------------------------------------------


KILLS = """
import os, random, signal, sys, time
from shm_async import OwnerDiedError, Region

region = Region.attach(sys.argv[1])
kills = int(sys.argv[2])
enter = getattr(region, sys.argv[3])
A, B = 0, 7

def write_for_ever(ack):
    for _ in iter(int, 1):
        with enter() as view:
            view[A] += 1
            view[B] += 1
        os.write(ack, b"x")

acknowledged = told = torn = 0
for number in range(kills):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        write_for_ever(write)
    os.close(write)
    acknowledged += len(os.read(read, 1))
    time.sleep(random.random() * 0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(read, 65536):
        acknowledged += len(more)
    os.close(read)
    hold = region.write_lock(recover=True)
    with hold as view:
        if not hold.owner_died:
            assert view[A] == view[B], "it was not told of a half write"
        assert acknowledged <= view[B] <= view[A] <= acknowledged + 1, (acknowledged, list(view))
        told += hold.owner_died
        torn += view[A] != view[B]
        view[A] = view[B] = acknowledged
print(acknowledged, told, torn)
"""


@pytest.mark.parametrize("enter", ["write_lock", "transaction"])
def test_killed_writers_lose_no_acknowledged_write_and_never_tear_in_silence(
    region: Region, run_python, enter: str
):
    done = run_python(KILLS, "150", enter)
    assert done.returncode == 0, done.stderr
    acknowledged, told, _torn = map(int, done.stdout.split())
    assert acknowledged >= 150
    if enter == "write_lock":
        assert told > 0, "nobody was killed inside"
    else:
        assert told < 30, "who dies in a transaction does no harm"
    assert is_sound(region)
