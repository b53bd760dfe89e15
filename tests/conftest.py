"""Fixtures: names, rival processes, and the proof that nothing was left behind."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers import fresh_key, remove_segment, segment_of

from shm_async import Region
from shm_async import shm_typed_array as shm
from shm_async.sysv import companion_of

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]
PREFIX = f"shm-async-test-{os.getpid()}-"
_numbers = itertools.count()


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def shm_entries() -> set[str]:
    """Entries that these tests make; other programs, and other runs, may come and go."""
    return {entry for entry in os.listdir("/dev/shm") if entry.startswith(PREFIX)}


def our_descriptors() -> dict[str, str]:
    """The descriptors that a region could have opened: objects, eventfds, inotify instances."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the directory
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith("/dev/shm") or "eventfd" in target or "inotify" in target:
                found[fd] = target
    return found


def our_threads() -> set[str]:
    """The waiting threads of the shim; Python's own are not ours to count."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/self/task/{task}/comm").read_text().strip() == "shm_async":
                found.add(task)
    return found


def our_locks() -> list[str]:
    rows = Path("/proc/locks").read_text().splitlines()
    return [row for row in rows if str(os.getpid()) in row.split() and "FLOCK" in row]


def locked_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmLck:")[2].split()[0]) * 1024


def blocked_in_flock(pid: int) -> bool:
    """Whether a thread of that process stands in the kernel's queue for a flock."""
    rows = Path("/proc/locks").read_text().splitlines()
    return any("->" in row and str(pid) in row.split() for row in rows)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    entries, descriptors = shm_entries(), our_descriptors()
    yield
    deadline = time.monotonic() + 2  # a waiting thread with nothing to do lingers a little
    while our_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert our_threads() == set(), "a waiting thread was left"
    assert our_descriptors() == descriptors, "a descriptor was left"
    assert shm_entries() - entries == set(), "an entry in /dev/shm was left"
    assert our_locks() == [], "a lock was left"


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else uses, removed at the end whatever it leads to."""
    unique = f"{PREFIX}{next(_numbers)}"
    yield unique
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"/dev/shm/{unique}")


@pytest.fixture
def region(name: str) -> Iterator[Region]:
    """A managed region of eight uint64."""
    with Region.create(name, 8, dtype="uint64") as region:
        yield region


class Rival:
    """Another process that locks the same object with flock(2) and knows nothing of us."""

    PROGRAM = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print("ready", flush=True)
for line in sys.stdin:
    word, *arguments = line.split()
    if word == "truncate":
        os.ftruncate(fd, int(arguments[0]))
    elif word == "gate":
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", 1, 0, 1 << 62, 1, 0))  # F_OFD_SETLK, F_WRLCK
    elif word == "leave":
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", 2, 0, 1 << 62, 1, 0))  # F_UNLCK
    else:
        try:
            fcntl.flock(fd, {"shared": 1, "exclusive": 2, "unlock": 8,
                             "try-shared": 5, "try-exclusive": 6}[word])
        except BlockingIOError:
            print("busy", flush=True)
            continue
    print("done", flush=True)
"""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", self.PROGRAM, f"/dev/shm/{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def do(self, words: str) -> str:
        """Have it done and return "done" or "busy"."""
        self.send(words)
        return self._answer()

    def is_blocked(self) -> bool:
        """Whether it stands in the kernel's queue for the lock."""
        return blocked_in_flock(self.process.pid)

    def finish(self) -> str:
        """Wait for the answer to what was sent."""
        return self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture
def rival(region: Region) -> Iterator[Rival]:
    """A rival at `region`'s object."""
    rival = Rival(region.name)
    yield rival
    rival.close()


def writer_dies(region: Region, *, reap: bool = True) -> int:
    """Have another process killed while it writes: its pid.

    It has stored 1 in the first element. Not reaped, it is a zombie.
    """
    pid = os.fork()
    if pid == 0:
        try:
            with region.write_lock() as view:
                view[0] = 1
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    if reap:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def path_of_tests() -> str:
    """A PYTHONPATH for programs that import the modules beside this one."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


@pytest.fixture
def run_python(name: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program in an interpreter of its own; `name` is its sys.argv[1]."""

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, name, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what happens in the kernel or another process and sends no event."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@pytest.fixture
def sysv_key() -> Iterator[int]:
    """A key that nobody else uses, and proof that its segment and companion go in the end."""
    key = fresh_key()
    yield key
    left, companion = segment_of(key), Path(f"/dev/shm/{companion_of(key)}")
    companion_left = companion.exists()
    remove_segment(key)
    companion.unlink(missing_ok=True)
    assert left is None, f"the segment of key {key} was left"
    assert not companion_left, f"the companion of key {key} was left"


@pytest.fixture
def nothing_stays_attached(sysv_key: int) -> Iterator[None]:
    """For users of shm_typed_array.

    It ends before the fixture that it asks for: that one then finds the key free again.
    """
    yield
    shm.detach_all()
    for key in list(shm._known):
        shm.destroy(key)
    assert (shm.get_total_size(), shm.get_total_created_size()) == (0, 0)
