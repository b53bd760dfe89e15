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


def test_a_region_loads_anyio_and_nothing_that_only_an_extra_needs():
    loaded = run("import sys; from shm_async import Region; print(*sys.modules)").split()
    assert set(LATER) & set(loaded) == {"anyio", "asyncio"}


@pytest.mark.parametrize("module", ["errors", "mmap_ipc", "shm_typed_array", "pytest_plugin"])
def test_the_other_modules_load_nothing_that_only_an_extra_needs(module: str):
    loaded = run(f"import sys, shm_async.{module}; print(*sys.modules)").split()
    assert set(LATER) & set(loaded) <= {"anyio", "asyncio"}


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
