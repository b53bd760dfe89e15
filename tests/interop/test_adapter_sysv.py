"""What sysv_ipc's own tests ask of shared memory, asked of it and of a Region with its face."""

import contextlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import sysv_ipc
from adapters import sysv_memory
from peers import segment_of

SIZE = 3333  # no multiple of anything that matters

LIBRARIES = [pytest.param(sysv_ipc, id="sysv_ipc"), pytest.param(sysv_memory, id="ours")]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture
def opened(library: ModuleType) -> Iterator:
    """Opens segments of the library; detaches them at the end, and removes what was created."""
    with contextlib.ExitStack() as stack:

        def open_one(key: int | None, flags: int = 0, **options):
            if library is sysv_ipc and flags & library.IPC_CREAT and options.get("size"):
                options.setdefault("init_character", b"\0")
            one = library.SharedMemory(key, flags, **options)

            def end() -> None:
                if one.attached:
                    one.detach()
                if flags & library.IPC_EXCL and segment_of(one.key):
                    one.remove()

            stack.callback(end)
            return one

        yield open_one


@pytest.fixture
def existing(library: ModuleType, opened):
    return opened(None, library.IPC_CREX, size=SIZE)


# ---- birth -------------------------------------------------------------------


def test_without_flags_it_opens_what_exists(existing, opened):
    again = opened(existing.key)
    assert (again.key, again.id, again.size) == (existing.key, existing.id, SIZE)


def test_without_flags_what_is_missing_is_an_error(library: ModuleType, sysv_key: int):
    with pytest.raises(library.ExistentialError):
        library.SharedMemory(sysv_key)


def test_create_opens_what_exists(library: ModuleType, existing, opened):
    assert opened(existing.key, library.IPC_CREAT).id == existing.id


def test_create_makes_what_is_missing(library: ModuleType, opened, sysv_key: int):
    one = opened(sysv_key, library.IPC_CREAT, size=SIZE)
    assert (one.key, one.size) == (sysv_key, SIZE)
    assert segment_of(sysv_key) is not None
    one.detach()
    one.remove()


def test_exclusive_creation_of_what_exists_is_an_error(library: ModuleType, existing, opened):
    with pytest.raises(library.ExistentialError):
        opened(existing.key, library.IPC_CREX, size=SIZE)


def test_it_makes_a_key_where_none_is_given(library: ModuleType, opened):
    one, another = (opened(None, library.IPC_CREX, size=1) for _ in range(2))
    assert one.key != another.key
    assert one.key > 0


def test_the_mode_is_what_was_asked_for(library: ModuleType, opened):
    one = opened(None, library.IPC_CREX, mode=0o640, size=SIZE)
    assert segment_of(one.key)["perms"] & 0o777 == 0o640


def test_the_size_is_exact(existing):
    assert existing.size == SIZE
    assert segment_of(existing.key)["size"] == SIZE


def test_it_is_attached_from_the_start(existing):
    assert existing.attached
    assert existing.number_attached == 1


# ---- attach and detach ---------------------------------------------------------


def test_what_is_detached_cannot_be_used(library: ModuleType, existing):
    existing.detach()
    assert not existing.attached
    with pytest.raises(library.NotAttachedError):
        existing.read()
    with pytest.raises(library.NotAttachedError):
        existing.write(b"x")


def test_attaching_again_finds_the_same_bytes(existing):
    existing.write(b"still here")
    existing.detach()
    existing.attach()
    assert existing.attached
    assert existing.read(10) == b"still here"


def test_every_attachment_counts(existing, opened):
    again = opened(existing.key)
    assert existing.number_attached == again.number_attached == 2
    again.detach()
    assert existing.number_attached == 1


def test_attached_for_reading_only_it_refuses_stores(library: ModuleType, existing):
    existing.write(b"x")
    existing.detach()
    existing.attach(None, library.SHM_RDONLY)
    assert existing.read(1) == b"x"
    with pytest.raises((OSError, TypeError)):
        existing.write(b"y")


# ---- read and write ----------------------------------------------------------


def test_a_new_segment_reads_as_zeros(existing):
    assert existing.read() == bytes(SIZE)


@pytest.mark.parametrize("text", [b"hello", b"a\0b", "größer".encode()])
def test_what_was_written_is_read(existing, text: bytes):
    existing.write(text)
    assert existing.read(len(text)) == text


def test_reading_takes_a_count_and_an_offset(existing):
    existing.write(b"abcdefghi", offset=3)
    assert existing.read(5, offset=4) == b"bcdef"
    assert existing.read(byte_count=3, offset=3) == b"abc"
    assert existing.read(6) == b"\0\0\0abc"


def test_reading_past_the_end_stops_at_the_end(existing):
    assert existing.read(SIZE + 100) == bytes(SIZE)
    assert existing.read(SIZE + 100, offset=100) == bytes(SIZE - 100)


@pytest.mark.parametrize("offset", [-1, SIZE, SIZE + 1])
def test_reading_from_outside_is_an_error(existing, offset: int):
    with pytest.raises(ValueError):  # noqa: PT011  # two libraries, two texts
        existing.read(1, offset)


def test_writing_past_the_end_is_an_error_and_writes_nothing(existing):
    with pytest.raises(ValueError):  # noqa: PT011  # the same
        existing.write(b"x" * (SIZE + 1))
    with pytest.raises(ValueError):  # noqa: PT011  # the same
        existing.write(b"xy", offset=SIZE - 1)
    with pytest.raises(ValueError):  # noqa: PT011  # the same
        existing.write(b"x", offset=-1)
    assert existing.read() == bytes(SIZE)


# ---- the buffer --------------------------------------------------------------


def buffer_of(library: ModuleType, memory) -> memoryview:
    return memoryview(memory) if library is sysv_ipc else memory.memory()


def test_its_buffer_is_writable_bytes_of_the_same_memory(library: ModuleType, existing):
    view = buffer_of(library, existing)
    assert (view.format, view.itemsize, view.shape, view.strides) == ("B", 1, (SIZE,), (1,))
    assert not view.readonly
    view[2:5] = b"xyz"
    assert existing.read(6) == b"\0\0xyz\0"
    existing.write(b"w", offset=3)
    assert view.tolist()[2:5] == list(b"xwz")
    assert np.asarray(view)[3] == ord("w")
    view.release()


# ---- end ---------------------------------------------------------------------


def test_removing_takes_the_key(library: ModuleType, existing, opened):
    existing.detach()
    existing.remove()
    assert segment_of(existing.key) is None
    with pytest.raises(library.ExistentialError):
        opened(existing.key)


def test_removing_under_an_attachment_leaves_the_memory(library: ModuleType, existing):
    key = existing.key
    existing.write(b"mine")
    existing.remove()
    assert segment_of(key) is None
    assert existing.read(4) == b"mine"


def test_removing_by_key(library: ModuleType, opened, sysv_key: int):
    one = opened(sysv_key, library.IPC_CREAT, size=SIZE)
    one.detach()
    if library is sysv_ipc:
        library.remove_shared_memory(one.id)
    else:
        library.remove_shared_memory(sysv_key)
    assert segment_of(sysv_key) is None


@pytest.mark.parametrize("name", ["key", "id", "size", "attached", "number_attached"])
def test_facts_are_read_only(existing, name: str):
    with pytest.raises((AttributeError, TypeError)):
        setattr(existing, name, 42)
