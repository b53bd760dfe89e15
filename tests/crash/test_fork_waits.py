"""A fork waits for what another thread does in one piece: its child finds nothing half done."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from forks import check, in_child, start_child, status_of

from shm_async import Region, _forks
from shm_async._forks import importing, undivided
from shm_async._memory.sysv_segment import SysvSegment

#: A thread is in the middle of the import of a module, for the first use of something, when another
#: one forks. The child does what the thread does.
PROGRAM = """
import asyncio, importlib.abc, os, signal, sys, threading
import shm_async

name, module, use = sys.argv[1:]
region = shm_async.Region.create(name, 8)
in_the_middle, forks = threading.Event(), threading.Event()
os.register_at_fork(before=forks.set)  # called first of all hooks, as it is the last one


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == module:
            in_the_middle.set()
            forks.wait(20)


async def lock():
    async with region.write_lock():
        pass


async def lock_after_a_checkpoint():
    async with region.read_lock(fast_acquire=False):
        pass


def asyncio_lock():
    asyncio.run(lock())


def asyncio_checkpoint():
    asyncio.run(lock_after_a_checkpoint())


def trio_lock():
    import trio
    trio.run(lock)


def second_library():
    asyncio.run(lock())
    import trio
    trio.run(lock)


def numpy():
    region.numpy()


def inspect():
    shm_async.inspect(name)


def open_beyond():
    shm_async.open_region("postgresql://nobody@localhost/none#none", 8)


use = globals()[use]
assert module not in sys.modules
sys.meta_path.insert(0, Finder())
thread = threading.Thread(target=use)
thread.start()
assert in_the_middle.wait(20)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    use()
    os._exit(0)
thread.join()
region.unlink()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("module", "use"),
    [
        ("anyio", "asyncio_lock"),
        ("shm_async._lock.adapters", "asyncio_lock"),
        ("anyio._backends._asyncio", "asyncio_lock"),
        ("anyio._backends._asyncio", "asyncio_checkpoint"),
        ("anyio._backends._trio", "trio_lock"),
        ("anyio._backends._trio", "second_library"),
        ("numpy", "numpy"),
        ("shm_async._watch.inspection", "inspect"),
        ("shm_async._postgresql.opening", "open_beyond"),
    ],
)
def test_a_fork_waits_for_an_import_of_a_first_use(run_python, module: str, use: str):
    done = run_python(PROGRAM, module, use)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


forking = threading.Event()
os.register_at_fork(before=forking.set)  # for good, as a hook cannot be taken back


@pytest.fixture
def aside() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Run something in another thread, which is joined in the end."""
    threads: list[threading.Thread] = []

    def aside(work: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    forking.clear()
    yield aside
    forking.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_fork_waits_for_the_companion_of_a_segment(
    sysv_key: int, aside, monkeypatch: pytest.MonkeyPatch
):
    make, begun = SysvSegment._make_companion, threading.Event()

    def make_slowly(segment: SysvSegment) -> int:
        begun.set()
        assert forking.wait(20)
        return make(segment)

    monkeypatch.setattr(SysvSegment, "_make_companion", make_slowly)
    with Region.create(sysv_key, 8, layout="raw") as region:

        def use() -> None:
            with region.write_lock():
                pass

        aside(use)
        assert begun.wait(20)
        pid = start_child(use)
        guard = threading.Timer(20, os.kill, (pid, signal.SIGKILL))  # it may hang in os.fork
        guard.start()
        assert status_of(pid) == 0
        guard.cancel()
        region.unlink()


def test_a_fork_does_not_wait_for_ever(aside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_forks, "PATIENCE", 0.05)
    begun, end = threading.Event(), threading.Event()

    def stay() -> None:
        with undivided:
            begun.set()
            assert end.wait(20)

    aside(stay)
    assert begun.wait(20)
    in_child(lambda: check(forking.is_set()))
    assert not undivided.acquire(blocking=False)  # it is still that thread's
    end.set()
    assert undivided.acquire(timeout=20)
    undivided.release()


def test_a_fork_in_the_middle_of_a_step_does_not_wait_for_itself():
    """Such as one in a signal handler."""
    with importing, undivided:
        in_child(lambda: check(importing.acquire(blocking=False)))
    assert not importing._is_owned()
    assert not undivided._is_owned()
