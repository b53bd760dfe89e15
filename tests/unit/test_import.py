"""The package's names: all there, and none that costs an event loop before it is used."""

import subprocess
import sys

import pytest

import shm_async

#: What a program pays for only when it uses it: event loops, and what extras bring.
LATER = ("anyio", "asyncio", "numpy", "psycopg", "rich", "starlette", "trio", "uvloop")


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout


def test_importing_the_package_loads_no_event_loop():
    loaded = run("import sys, shm_async; print(*sys.modules)").split()
    assert {*LATER, "cffi", "_cffi_backend", "shm_async._region"}.isdisjoint(loaded)


@pytest.mark.parametrize(
    "module", ["_region", "errors", "mmap_ipc", "shm_typed_array", "pytest_plugin"]
)
def test_no_module_loads_an_event_loop_or_what_only_an_extra_needs(module: str):
    loaded = run(f"import sys, shm_async.{module}; print(*sys.modules)").split()
    assert set(LATER).isdisjoint(loaded)


# ---- the first use of an event loop ------------------------------------------------

#: What a program does with blocking calls alone, and at last the modules that it has loaded.
BLOCKING = """
import sys, threading
from shm_async import LockTimeoutError, Region, WouldBlockError, inspect, prune
from shm_async.mmap_ipc import MmapIPC

def refuse(hold):
    for acquire in (lambda: hold.acquire_blocking(timeout=0.001), hold.acquire_nowait):
        try:
            acquire()
        except (LockTimeoutError, WouldBlockError):
            continue
        raise AssertionError("it has the lock")

with Region.temporary(8, dtype="int64") as region, Region.attach(region.name) as other:
    region.slow_wait = region.slow_hold = 1e-9
    with region.write_lock(label="first") as view:
        view[0] = 1
        thread = threading.Thread(target=refuse, args=[other.read_lock()])
        thread.start()
        thread.join()
        region.holders()
    with region.read_lock() as view, other.read_lock():
        assert view[0] == 1
    hold = region.read_lock()
    hold.acquire_nowait()
    hold.upgrade_blocking()
    hold.downgrade()
    hold.release()
    with region.transaction() as view:
        view[0] = 2
    assert region.snapshot()[0] == 2
    region.changes()
    region.statistics(), inspect(region.name), prune(region.name)
    with MmapIPC(f"{region.name}-ipc", 64) as shared:
        assert shared.acquire_write_lock() and shared.remove_lock()
        shared.region.unlink()
    region.resize(16)
"""


def loaded_later(program: str) -> set[str]:
    return set(LATER) & set(run(f"{program}\nprint(*sys.modules)").split())


def test_a_program_of_blocking_calls_never_loads_an_event_loop():
    assert loaded_later(BLOCKING) == set()


#: Programs to put after BLOCKING: `use(region)` is the first use in an event loop.
USES = {
    "a block": "async with region.read_lock(): pass",
    "a checkpoint first": "async with region.read_lock(fast_acquire=False): pass",
    "acquire": "hold = region.write_lock(); await hold.acquire(); hold.release()",
    "acquire_nowait": "hold = region.write_lock(); hold.acquire_nowait(); hold.release()",
    "a change": "await region.wait_changed(since=-1)",
}
USE = """
assert not {{"anyio", "asyncio", "trio"}} & set(sys.modules)
async def use(region):
    {use}
with Region.temporary(8) as region:
    {runner}(use, region)
"""
ASYNCIO = "import asyncio; (lambda use, region: asyncio.run(use(region)))"
TRIO = "import trio; trio.run"


@pytest.mark.parametrize("runner", [ASYNCIO, TRIO], ids=["asyncio", "trio"])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_the_first_use_in_an_event_loop_loads_anyio(use: str, runner: str):
    if runner == TRIO:
        pytest.importorskip("trio")
    assert "anyio" in loaded_later(BLOCKING + USE.format(use=use, runner=runner))


def test_the_first_use_may_come_in_uvloop():
    pytest.importorskip("uvloop")
    runner = "import uvloop; (lambda use, region: uvloop.run(use(region)))"
    assert "anyio" in loaded_later(BLOCKING + USE.format(use=USES["a block"], runner=runner))


def test_the_first_use_may_come_in_a_forked_child():
    child = """
import os
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    assert "anyio" not in sys.modules
"""
    then = "\n".join(f"    {line}" for line in USE.splitlines()).format(
        use=USES["a block"], runner="import asyncio; (lambda f, r: asyncio.run(f(r)))"
    )
    program = f"{BLOCKING}{child}else:{then}\n    os._exit(0 if 'anyio' in sys.modules else 1)"
    assert loaded_later(program) == set()


def test_several_threads_may_be_first_together():
    program = """
import sys, threading
from shm_async import Region
sys.setswitchinterval(1e-6)
errors = []

def first(region):
    try:
        together.wait()
        import asyncio
        async def use():
            async with region.write_lock(fast_acquire=False) as view:
                view[0] += 1
        asyncio.run(use())
    except BaseException as error:
        errors.append(error)

together = threading.Barrier(4)
with Region.temporary(8) as region:
    threads = [threading.Thread(target=first, args=[region]) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not errors, errors
    with region.read_lock() as view:
        assert view[0] == 4
"""
    assert {"anyio", "asyncio"} <= loaded_later(program)


@pytest.mark.parametrize("half", ["asyncio", "trio.lowlevel"])
def test_a_library_that_another_thread_is_importing_runs_no_loop_here(half: str):
    program = f"""
import sys, types
from shm_async import Region
sys.modules[{half!r}] = types.ModuleType({half!r})  # as it is at the beginning of an import
with Region.temporary(8) as region:
    hold = region.write_lock()
    hold.acquire_nowait()
    hold.release()
"""
    assert "anyio" not in loaded_later(program)


def test_what_is_no_name_of_later_is_refused_without_an_import():
    program = """
import sys
from shm_async._lock import later
try:
    later.nothing
except AttributeError as error:
    assert str(error) == "module 'shm_async._lock.later' has no attribute 'nothing'"
"""
    assert loaded_later(program) == set()


# ---- the names ---------------------------------------------------------------------


@pytest.mark.parametrize("name", shm_async.__all__)
def test_each_name_can_be_had_first(name: str):
    assert run(f"import shm_async; print(shm_async.{name}.__name__)").split() == [name]


def test_a_star_import_has_all_names():
    assert run("from shm_async import *; print(Region.__name__, prune.__name__)") == (
        "Region prune\n"
    )


def test_dir_has_all_names():
    names = run("import shm_async; print(*dir(shm_async))").split()
    assert set(shm_async.__all__) <= set(names)


def test_each_name_that_comes_later_is_public():
    assert set(shm_async._HOMES) <= set(shm_async.__all__)


def test_what_is_no_name_of_the_package_says_so():
    with pytest.raises(AttributeError, match="module 'shm_async' has no attribute 'Regoin'"):
        _ = shm_async.Regoin  # type: ignore[attr-defined]
