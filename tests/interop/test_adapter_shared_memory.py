"""What CPython's own tests ask of SharedMemory, asked of it and of a Region with its face."""

import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from types import ModuleType

import pytest
from adapters import shared_memory as adapter

from shm_async import Region

LIBRARIES = [pytest.param(shared_memory, id="CPython"), pytest.param(adapter, id="ours")]
OURS = pytest.mark.parametrize("library", [adapter], ids=["ours"])


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def opened(library: ModuleType) -> Iterator[Callable]:
    """Opens objects of the library, and ends them."""
    ones = []

    def open_one(*arguments, **options):
        one = library.SharedMemory(*arguments, **options)
        ones.append(one)
        return one

    yield open_one
    for one in ones:
        one.close()
    for name in {one.name for one in ones}:
        if os.path.exists(f"/dev/shm/{name}"):
            unlink(library, name)


def unlink(library: ModuleType, name: str) -> None:
    one = library.SharedMemory(name)
    one.close()
    one.unlink()


@pytest.fixture
def existing(opened, name: str):
    return opened(name, create=True, size=512)


# ---- one object ------------------------------------------------------------------------


def test_it_has_the_name_and_the_size_that_it_was_given(existing, name: str):
    assert existing.name == name
    assert existing.size == len(existing.buf) == 512
    assert name in str(existing)
    assert "512" in str(existing)


def test_no_size_is_rounded(existing, opened, name: str):
    """POSIX keeps the exact size; other systems of CPython's round it up to pages."""
    assert os.stat(f"/dev/shm/{name}").st_size == 512
    for size in (1, 4095, 4097):
        one = opened(f"{name}-{size}", create=True, size=size)
        assert one.size == opened(one.name).size == os.stat(f"/dev/shm/{one.name}").st_size == size


def test_it_is_zero_at_first_and_for_its_owner_alone(existing, name: str):
    assert bytes(existing.buf) == bytes(512)
    assert stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) == 0o600


def test_what_is_stored_can_be_read(existing):
    existing.buf[0] = 42
    existing.buf[1:4] = b"abc"
    assert bytes(existing.buf[:5]) == b"\x2aabc\0"


def test_without_a_name_it_makes_one(opened):
    first, second = opened(create=True, size=1), opened(create=True, size=1)
    assert first.name
    assert first.name != second.name
    assert os.path.exists(f"/dev/shm/{first.name}")


def test_a_name_that_it_made_and_is_taken_is_not_taken_again(
    library: ModuleType, opened, name: str, monkeypatch: pytest.MonkeyPatch
):
    drawn = iter([f"/{name}", f"/{name}", f"/{name}-second"])
    monkeypatch.setattr(library, "_make_filename", lambda: next(drawn))
    first, second = opened(create=True, size=1), opened(create=True, size=1)
    assert (first.name, second.name) == (name, f"{name}-second")


# ---- two of them -------------------------------------------------------------------------


def test_the_second_one_attaches_to_the_same_memory(existing, opened):
    existing.buf[0] = 42
    other = opened(existing.name)
    assert (other.name, other.size, other.buf[0]) == (existing.name, 512, 42)
    other.buf[0] = 43
    assert existing.buf[0] == 43


def test_who_attaches_gets_all_of_it_whatever_size_it_names(existing, opened):
    assert opened(existing.name, size=20 * 512).size == 512
    assert opened(existing.name, size=1).size == 512
    assert os.stat(f"/dev/shm/{existing.name}").st_size == 512


def test_creating_what_exists_is_an_error_and_harms_nothing(existing, opened):
    existing.buf[0] = 42
    with pytest.raises(FileExistsError):
        opened(existing.name, create=True, size=512)
    assert existing.buf[0] == opened(existing.name).buf[0] == 42


def test_attaching_to_nothing_is_an_error_and_makes_nothing(opened, name: str):
    with pytest.raises(FileNotFoundError):
        opened(name)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_create_or_else_attach(existing, opened):
    """The idiom for what may exist already."""
    try:
        either = opened(existing.name, create=True, size=512)
    except FileExistsError:
        either = opened(existing.name)
    assert either.size == 512


@pytest.mark.parametrize("size", [0, -1, -512])
def test_no_object_has_no_size_or_less(opened, name: str, size: int):
    for arguments in ([name], []):
        with pytest.raises(ValueError, match="size|length"):
            opened(*arguments, create=True, size=size)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_attaching_takes_a_name(opened):
    with pytest.raises(ValueError, match="name"):
        opened()
    with pytest.raises(ValueError, match="name"):
        opened(None, size=10)


# ---- the end of it -----------------------------------------------------------------------


def test_closing_twice_is_fine_and_takes_the_buffer_away(existing):
    existing.close()
    assert existing.buf is None
    existing.close()


def test_one_that_is_closed_leaves_the_other_alone(existing, opened):
    other = opened(existing.name)
    existing.close()
    other.buf[0] = 7
    assert opened(existing.name).buf[0] == 7


def test_it_can_be_unlinked_once_and_after_it_was_closed(library: ModuleType, name: str):
    one = library.SharedMemory(name, create=True, size=1)
    one.close()
    one.unlink()
    with pytest.raises(FileNotFoundError):
        one.unlink()
    with pytest.raises(FileNotFoundError):
        library.SharedMemory(name)


def test_who_has_it_keeps_it_when_its_name_goes(existing, opened):
    other = opened(existing.name)
    existing.unlink()
    existing.buf[0] = 7
    assert other.buf[0] == 7
    with pytest.raises(FileNotFoundError):
        opened(existing.name)


def test_a_name_that_was_freed_can_be_used_for_another(existing, opened):
    existing.buf[0] = 42
    existing.unlink()
    second = opened(existing.name, create=True, size=100)
    assert (second.size, second.buf[0], existing.buf[0]) == (100, 0, 42)


# ---- pickles and processes -----------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_leads_to_the_same_memory(library: ModuleType, existing, protocol: int):
    existing.buf[:6] = b"before"
    other = pickle.loads(pickle.dumps(existing, protocol))
    assert isinstance(other, library.SharedMemory)
    assert (other.name, bytes(other.buf[:6])) == (existing.name, b"before")
    existing.buf[:6] = b"after!"
    assert bytes(other.buf[:6]) == b"after!"
    other.buf[:6] = b"theirs"
    assert bytes(existing.buf[:6]) == b"theirs"
    other.close()


def test_a_pickle_of_what_is_gone_leads_to_nothing(library: ModuleType, name: str):
    one = library.SharedMemory(name, create=True, size=1)
    pickled = pickle.dumps(one)
    one.close()
    one.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_share_it(library: ModuleType, existing, method: str):
    context = multiprocessing.get_context(method)
    for target, arguments in (
        (adapter.write_by_name, (library.__name__, existing.name, b"by name")),
        (adapter.write_there, (existing, b"as itself")),
    ):
        process = context.Process(target=target, args=arguments)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        process.close()
        assert bytes(existing.buf[: len(arguments[-1])]) == arguments[-1]
    assert os.path.exists(f"/dev/shm/{existing.name}")


CLEAN = """
import importlib, sys
SharedMemory = importlib.import_module(sys.argv[1]).SharedMemory
first = SharedMemory(sys.argv[2], create=True, size=10)
second = SharedMemory(sys.argv[2])
second.close()
first.close()
first.unlink()
"""

ATTACH = """
import importlib, sys
importlib.import_module(sys.argv[1]).SharedMemory(sys.argv[2]).close()
"""

FORGET = """
import importlib, sys
importlib.import_module(sys.argv[1]).SharedMemory(sys.argv[2], create=True, size=10).close()
"""


def run(library: ModuleType, program: str, name: str) -> str:
    """What the program, and what it left running, says to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, library.__name__, name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_who_cleans_up_is_not_warned(library: ModuleType, name: str):
    assert run(library, CLEAN, name) == ""
    assert not os.path.exists(f"/dev/shm/{name}")


# ---- where we part ---------------------------------------------------------------------------


@OURS
def test_with_ours_the_exit_of_one_who_attached_takes_nothing_away(library, existing, name: str):
    assert run(library, ATTACH, name) == ""
    existing.buf[0] = 7
    with Region.attach(name) as region:
        assert region.buffer[0] == 7


@OURS
def test_with_ours_what_was_left_on_purpose_stays_and_nobody_is_warned(library, name: str):
    assert run(library, FORGET, name) == ""
    assert os.path.exists(f"/dev/shm/{name}")


@OURS
def test_with_ours_it_can_be_closed_while_a_slice_of_it_is_left(existing):
    left = existing.buf[10:20]
    existing.close()
    left[0] = 9
    assert left[0] == 9


@OURS
def test_with_ours_there_is_a_lock_in_it(existing, opened, name: str):
    other = opened(name)
    with existing.region.write_lock() as view:
        view[0] = 1
        with pytest.raises(BlockingIOError):
            other.region.read_lock().acquire_nowait()


@OURS
def test_ours_starts_no_tracker(library, name: str):
    program = CLEAN + "\nassert 'multiprocessing.resource_tracker' not in sys.modules"
    assert run(library, program, name) == ""


def teardown_module() -> None:
    """CPython's tracker is a process of its own; it ends when nobody holds its pipe."""
    resource_tracker._resource_tracker._stop()
