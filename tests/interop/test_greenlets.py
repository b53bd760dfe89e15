"""gevent and eventlet: a wait for the lock lets the other greenlets of its thread run."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shm_async import Region

PATCHED = {
    "gevent": """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent import spawn, joinall, kill
def deadline(seconds):
    return gevent.Timeout.start_new(seconds)
def join(*greenlets):
    joinall(greenlets, raise_error=True)
""",
    "eventlet": """
import os
os.environ["EVENTLET_NO_GREENDNS"] = "yes"  # dnspython may import trio, which it half patches
import eventlet
eventlet.monkey_patch()
from eventlet import spawn, kill
def deadline(seconds):
    return eventlet.Timeout(seconds)
def join(*greenlets):
    for greenlet in greenlets:
        greenlet.wait()
""",
}

FIRST_LINES = """
import sys, threading, time
from shm_async import LockTimeoutError, Region
region = Region.attach(sys.argv[1])
def say(word):
    print(word, flush=True)
"""


@pytest.fixture(params=PATCHED)
def greenlets(request: pytest.FixtureRequest) -> str:
    """The first lines of a program with greenlets."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"no {request.param} for this Python")
    return PATCHED[request.param] + FIRST_LINES


@pytest.fixture
def start(region: Region) -> Iterator[object]:
    """Start a program, and see it end well."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", program, region.name, *options]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


WAITS = """
def wait():
    with getattr(region, sys.argv[2])() as view:
        say("granted")
def tick():
    for _ in range(20):
        time.sleep(0.001)
    say("ticked")
join(spawn(wait), spawn(tick))
"""


@pytest.mark.parametrize("kind", ["read_lock", "write_lock"])
def test_other_greenlets_run_while_one_waits(region: Region, greenlets: str, start, kind: str):
    with region.write_lock():
        process = start(greenlets + WAITS, kind)
        assert line(process) == "ticked"
    assert line(process) == "granted"
    assert process.wait(10) == 0


COUNTS = """
def count():
    for _ in range(20):
        with region.write_lock() as view:
            seen = view[0]
            time.sleep(0.0005)
            view[0] = seen + 1
        with region.read_lock() as view:
            time.sleep(0)
join(*[spawn(count) for _ in range(8)])
say("counted")
"""


def test_greenlets_of_two_processes_exclude_each_other(region: Region, greenlets: str, start):
    processes = [start(greenlets + COUNTS) for _ in range(2)]
    assert [line(process) for process in processes] == ["counted"] * 2
    assert region.buffer[0] == 2 * 8 * 20


UPGRADES = """
reading = []
def read():
    with region.read_lock():
        reading.append(1)
        while len(reading) < 2:
            time.sleep(0.001)
        time.sleep(0.02)
def upgrade():
    while not reading:
        time.sleep(0.001)
    hold = region.read_lock()
    hold.acquire_blocking()
    reading.append(1)
    hold.upgrade_blocking()
    hold.release()
    say("upgraded")
join(spawn(read), spawn(upgrade))
"""


def test_a_greenlet_upgrades_when_the_others_have_left(greenlets: str, start):
    assert line(start(greenlets + UPGRADES)) == "upgraded"


ENDS = """
def wait():
    with region.write_lock():
        say("granted")
def give_up():
    try:
        with region.write_lock(timeout=0.02):
            say("granted")
    except LockTimeoutError:
        say("timed out")
    late = deadline(0.02)
    try:
        with region.write_lock():
            say("granted")
    except BaseException as error:
        assert error is late, error
        say("late")
    finally:
        late.cancel()
doomed = spawn(wait)
join(spawn(give_up))
kill(doomed)
while not doomed.dead:
    time.sleep(0.001)
say("killed")
sys.stdin.readline()
"""


def test_a_greenlet_that_gives_up_holds_nothing(region: Region, greenlets: str, start):
    with region.write_lock():
        process = start(greenlets + ENDS)
        assert [line(process) for _ in range(3)] == ["timed out", "late", "killed"]
    for _ in range(3):
        hold = region.write_lock()
        hold.acquire_nowait()  # neither the lock nor the gate is taken
        hold.release()
