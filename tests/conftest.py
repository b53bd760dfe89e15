"""Fixtures: names, rival processes, and the proof that nothing was left behind."""

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forks import c_level_fork
from peers import fresh_key, remove_segment, segment_of
from rivals import Rival
from traces import PREFIX, our_descriptors, our_locks, our_threads, shm_entries
from waits import wait_until

from shm_async import Region
from shm_async import shm_typed_array as shm
from shm_async._memory.names import companion_of

if TYPE_CHECKING:
    from databases import Server

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

# A shell that starts the tests in the background, or nohup, has these signals ignored in them, and
# in the programs that they start: then Ctrl-C could not be tried.
for number, default in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, default)

_numbers = itertools.count()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep thousands of collected tests out of each later garbage collection, also of children."""
    gc.disable()
    try:
        result = yield
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()
    return result


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # the last collections look at everything


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give all tests that are skipped for one reason one line of the summary."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = ("tests", None, report.longrepr[2])  # type: ignore[assignment]  # declared without tuples
    return report


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def threads_switch_all_the_time() -> Iterator[None]:
    """Threads take turns after each microsecond, so that races come soon."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    entries, descriptors = shm_entries(), our_descriptors()
    yield
    # a waiting thread with nothing to do lingers a little, and a test's own thread may be about
    # to give back what it has released
    deadline = time.monotonic() + 10
    while True:
        threads, left = our_threads(), our_descriptors()
        if (not threads and left == descriptors) or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    assert threads == set(), "a waiting thread was left"
    assert left == descriptors, "a descriptor was left"
    # another worker of a parallel run may have killed a process in the middle of a resize just now
    with contextlib.suppress(TimeoutError, AssertionError):
        wait_until(lambda: shm_entries() <= entries, 5)
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


@pytest.fixture
def other(region: Region) -> Iterator[Region]:
    """A second attachment, which the kernel keeps apart from the first as if in another process."""
    with Region.attach(region.name) as other:
        yield other


@pytest.fixture
def rival(region: Region) -> Iterator[Rival]:
    """A rival at `region`'s object."""
    rival = Rival(region.name)
    yield rival
    rival.close()


@pytest.fixture(params=[os.fork, c_level_fork], ids=["os.fork", "C fork"])
def fork(request: pytest.FixtureRequest):
    return request.param


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


@pytest.fixture(scope="session")
def database() -> Iterator["Server"]:
    """A server of PostgreSQL, for all tests that need one."""
    from databases import chosen_server

    server = chosen_server()
    yield server
    server.end()


@pytest.fixture
def address(database: "Server", name: str) -> Iterator[str]:
    """The address of a region that nobody else uses; and proof that no session is left."""
    from databases import nobody_is_left

    yield f"{database.url}#{name}"
    wait_until(lambda: nobody_is_left(database))
