"""A limit that is reached while somebody has to wait: the error names it, and nothing is lost."""

import os
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest
from patient import BACKENDS
from programs import path_of_tests

from shm_async import Region

Run = Callable[..., CompletedProcess[str]]


ASKS = """
import resource, sys
from pathlib import Path
import anyio
from patient import BACKENDS
from shm_async import Region, WouldBlockError

region, backend, name = Region.attach(sys.argv[1]), sys.argv[2], sys.argv[3]
limit = getattr(resource, name)
before = resource.getrlimit(limit)

def lower():
    if name == "RLIMIT_AS":  # less than a thread's stack is left
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        least = (pages + 32) * resource.getpagesize()
    else:
        least = 0
    resource.setrlimit(limit, (least, before[1]))

async def ask():
    with Region.temporary(1) as another:
        async with another.read_lock():
            pass  # the first use in a loop imports modules, which takes a descriptor
    hold = region.write_lock()
    if name != "RLIMIT_NOFILE":
        try:
            hold.acquire_nowait()  # all else is there
        except WouldBlockError:
            pass
    lower()
    try:
        await hold.acquire()
    except OSError as error:
        resource.setrlimit(limit, before)
        print(type(error).__name__, error)
    with anyio.move_on_after(0.05):
        await hold.acquire()
    print("waited")

options = dict(zip(("backend", "backend_options"), BACKENDS[backend]))
anyio.run(ask, **options)
"""


LIMITS = {
    "RLIMIT_AS": ["no thread can be started", "RLIMIT_NPROC", "pids.max", "RLIMIT_AS"],
    "RLIMIT_SIGPENDING": ["pending signals", "RLIMIT_SIGPENDING", "SHM_ASYNC_SIGNAL=off"],
    "RLIMIT_NOFILE": ["too many open files", "RLIMIT_NOFILE allows 0 descriptors"],
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_task_that_cannot_wait_is_told_of_the_limit(
    region: Region, run_python: Run, backend: str, limit: str, path_of_helpers: None
):
    if limit == "RLIMIT_AS" and "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitizer takes address space by the terabyte")
    with region.write_lock():
        done = run_python(ASKS, backend, limit)
    assert (done.returncode, done.stderr) == (0, "")
    error, waited = done.stdout.splitlines()
    assert error.startswith("OSError [Errno ")
    assert waited == "waited"
    for words in [*LIMITS[limit], repr(region.name)]:
        assert words in error


@pytest.fixture
def path_of_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs find the modules beside this one."""
    monkeypatch.setenv("PYTHONPATH", path_of_tests())
