"""What posix_ipc's own tests ask of shared memory, asked of it and of a Region with its face."""

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from types import ModuleType

import posix_ipc
import pytest
from adapters import posix_memory

SIZE = 3333  # no multiple of anything that matters

LIBRARIES = [pytest.param(posix_ipc, id="posix_ipc"), pytest.param(posix_memory, id="ours")]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


class Open:
    """An opened object of either library."""

    def __init__(self, library: ModuleType, *arguments, **options) -> None:
        self.library = library
        self.memory = library.SharedMemory(*arguments, **options)
        self.maps: list[tuple[memoryview, mmap.mmap]] = []
        self.readonly = bool(options.get("read_only"))

    def view(self) -> memoryview:
        if self.library is posix_memory:
            return self.memory.view()
        access = mmap.ACCESS_READ if self.readonly else mmap.ACCESS_WRITE
        mapped = mmap.mmap(self.memory.fd, 0, access=access)
        view = memoryview(mapped)
        self.maps.append((view, mapped))
        return view

    def close(self) -> None:
        if self.library is posix_memory:
            self.memory.close()
        else:
            self.memory.close_fd()

    def end(self) -> None:
        self.close()
        for view, mapped in self.maps:
            view.release()
            mapped.close()


@pytest.fixture
def opened(library: ModuleType, name: str) -> Iterator:
    """Opens objects of the library, and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def open_one(*arguments, **options) -> Open:
            one = Open(library, *arguments, **options)
            stack.callback(one.end)
            return one

        yield open_one


@pytest.fixture
def existing(library: ModuleType, opened, name: str) -> Open:
    return opened(f"/{name}", library.O_CREX, size=SIZE)


# ---- birth -------------------------------------------------------------------


def test_without_flags_it_opens_what_exists(existing: Open, opened):
    assert opened(existing.memory.name).memory.name == existing.memory.name


def test_without_flags_what_is_missing_is_an_error(library: ModuleType, opened, name: str):
    with pytest.raises(library.ExistentialError):
        opened(f"/{name}")
    assert not os.path.exists(f"/dev/shm/{name}")


def test_create_opens_what_exists(library: ModuleType, existing: Open, opened):
    existing.view()[0] = 7
    again = opened(existing.memory.name, library.O_CREAT)
    assert again.memory.size == SIZE
    assert again.view()[0] == 7


def test_create_makes_what_is_missing(library: ModuleType, opened, name: str):
    assert opened(f"/{name}", library.O_CREAT, size=SIZE).memory.size == SIZE
    assert os.path.exists(f"/dev/shm/{name}")


def test_exclusive_creation_of_what_exists_is_an_error(library: ModuleType, existing: Open, opened):
    with pytest.raises(library.ExistentialError):
        opened(existing.memory.name, library.O_CREX, size=SIZE)


def test_exclusive_without_create_makes_no_sense(library: ModuleType, existing: Open, opened):
    with pytest.raises(ValueError, match="O_CREAT"):
        opened(existing.memory.name, library.O_EXCL)


def test_it_makes_a_name_where_none_is_given(library: ModuleType, opened):
    one = opened(None, library.O_CREX, size=SIZE)
    try:
        assert one.memory.name[0] == "/"
        assert len(one.memory.name) >= 2
        assert os.path.exists(f"/dev/shm{one.memory.name}")
    finally:
        one.memory.unlink()


def test_the_mode_is_what_was_asked_for(library: ModuleType, opened, name: str):
    opened(f"/{name}", library.O_CREX, mode=0o640, size=SIZE)
    assert stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) == 0o640


# ---- life --------------------------------------------------------------------


def test_the_size_is_exact_and_the_memory_zero(existing: Open):
    assert existing.memory.size == len(existing.view()) == SIZE
    assert bytes(existing.view()) == bytes(SIZE)


def test_a_second_handle_leaves_the_size_alone(existing: Open, opened):
    assert opened(existing.memory.name).memory.size == SIZE
    assert opened(existing.memory.name, size=SIZE).memory.size == SIZE
    assert os.stat(f"/dev/shm{existing.memory.name}").st_size == SIZE


def test_what_one_handle_writes_the_other_reads(existing: Open, opened):
    view = existing.view()
    view[SIZE - 5 :] = b"hello"
    assert bytes(opened(existing.memory.name).view()[SIZE - 5 :]) == b"hello"


def test_a_read_only_handle_refuses_stores(existing: Open, opened):
    existing.view()[0] = 7
    view = opened(existing.memory.name, read_only=True).view()
    assert view[0] == 7
    with pytest.raises(TypeError):
        view[0] = 8


def test_a_view_outlives_its_handle(existing: Open):
    view = existing.view()
    existing.close()
    view[0] = 9
    assert view[0] == 9


# ---- end ---------------------------------------------------------------------


def test_unlinking_removes_the_name_and_leaves_the_memory(
    library: ModuleType, existing: Open, opened
):
    view = existing.view()
    existing.memory.unlink()
    with pytest.raises(library.ExistentialError):
        opened(existing.memory.name)
    view[0] = 3
    assert view[0] == 3


def test_unlinking_by_name_and_unlinking_twice(library: ModuleType, existing: Open):
    library.unlink_shared_memory(existing.memory.name)
    with pytest.raises(library.ExistentialError):
        existing.memory.unlink()
    with pytest.raises(library.ExistentialError):
        library.unlink_shared_memory(existing.memory.name)


# ---- where we part -------------------------------------------------------------


@pytest.mark.parametrize("library", [posix_memory], ids=["ours"])
def test_ours_never_resizes_what_others_have_mapped(library: ModuleType, existing: Open, opened):
    with pytest.raises(ValueError, match=r"attach\(\) without a length"):
        opened(existing.memory.name, size=SIZE + 1)
    assert opened(existing.memory.name, size=100).memory.size == 100
    assert os.stat(f"/dev/shm{existing.memory.name}").st_size == SIZE
