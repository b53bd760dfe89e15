"""The port of shm-typed-array on its own; test_interop_node.py compares it with the original."""

import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import LIVES, life_of, segment_of

from shm_async import Region, RegionClosedError, RegionFormatError, RegionSizeError
from shm_async import shm_typed_array as shm
from shm_async.shared_array import SharedArray

pytestmark = pytest.mark.usefixtures("nothing_stays_attached")


def made(*arguments: Any) -> SharedArray:
    array = shm.create(*arguments)
    assert array is not None
    return array


def got(*arguments: Any) -> SharedArray:
    array = shm.get(*arguments)
    assert array is not None
    return array


# ---- arrays ------------------------------------------------------------------


def test_an_array_is_indexed_sliced_assigned_and_iterated(name: str):
    array = made(6, "Int16Array", name)
    array[0] = -5
    array[-1] = 7
    array[1:4] = [1, 2, 3]
    assert (array[0], array[5], len(array)) == (-5, 7, 6)
    assert list(array) == [-5, 1, 2, 3, 0, 7]
    assert array[1:4].tolist() == [1, 2, 3]
    array[::2] = (10, 20, 30)
    assert list(array) == [10, 1, 20, 3, 30, 7]
    assert 30 in array
    with pytest.raises(IndexError):
        array[6]
    with pytest.raises(IndexError):
        array[-7] = 1


def test_a_slice_is_the_same_memory(name: str):
    array = made(4, "Float32Array", name)
    array[1:3][0] = 0.5
    assert array[1] == 0.5


@pytest.mark.parametrize("type_key", shm.BufferType)
def test_it_is_a_true_buffer_of_its_element_type(name: str, type_key: str):
    array = made(4, type_key, name)
    array[2] = 7
    view = memoryview(array)
    assert (view.shape, view.readonly, view.format.lstrip("<")) == ((4,), False, array[:].format)
    assert view.tobytes() == bytes(array[:])
    assert np.asarray(array)[2] == 7
    np.asarray(array)[3] = 5
    assert array[3] == 5
    assert array[:][3] == 5  # a memoryview that every Python can index
    struct.pack_into("B", array, 0, 1)
    assert bytes(array[:])[0] == 1


def test_a_store_takes_buffers_of_its_type_and_numbers_from_others(name: str):
    array = made(3, "Float64Array", name)
    array[:] = np.array([1.5, 2.5, 3.5])
    assert list(array) == [1.5, 2.5, 3.5]
    array[:] = np.array([1, 2, 3], dtype="int16")
    assert list(array) == [1.0, 2.0, 3.0]
    with pytest.raises(struct.error):
        made(3, "Int8Array")[:] = b"a\xffb"  # numbers, not bits
    floats = made(3, "Float32Array")
    floats[:] = np.array([1, 2, 3], dtype="int32")
    assert list(floats) == [1.0, 2.0, 3.0]
    letters = made(3)
    letters[:] = b"abc"
    assert bytes(letters[:]) == b"abc"


@pytest.mark.parametrize(
    ("type_key", "value"),
    [
        ("Buffer", 256),
        ("Uint8Array", -1),
        ("Int8Array", 128),
        ("Uint16Array", 65536),
        ("Int32Array", 2**31),
        ("Uint32Array", 2.5),
        ("Float32Array", "1"),
        ("Float64Array", None),
    ],
)
def test_what_does_not_fit_is_structs_error_and_stores_nothing(name: str, type_key: str, value):
    array = made(2, type_key, name)
    with pytest.raises(struct.error):
        array[0] = value
    with pytest.raises(struct.error):
        array[:] = [1, value]
    assert list(array) == [0, 0]


def test_another_number_of_values_is_an_error_that_says_so(name: str):
    array = made(4, "Buffer", name)
    with pytest.raises(ValueError, match="not as many values as the slice has"):
        array[:2] = [1, 2, 3]
    assert list(array) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("value", "stored"),
    [(-0.5, 0), (0.5, 0), (1.5, 2), (254.5, 254), (1000, 255), (float("inf"), 255), (-9, 0)],
)
def test_a_clamped_array_clamps_and_rounds_half_to_even(name: str, value: float, stored: int):
    array = made(2, "Uint8ClampedArray", name)
    array[0] = value
    array[1:] = [value]
    assert list(array) == [stored, stored]


def test_a_slice_of_a_clamped_array_clamps_too(name: str):
    array = made(4, "Uint8ClampedArray", name)
    part = array[1:3]
    part[0] = 300
    part[1:] = [0.5]
    array[3:] = np.array([-7.5])
    assert list(array) == [0, 255, 0, 0]
    with pytest.raises(TypeError, match="must be a number, not str"):
        array[0] = "1"
    with pytest.raises(ValueError, match="not as many values as the slice has"):
        array[:2] = [1, 2, 3]
    with array.region.write_lock() as view:
        view[0] = 2.5
    assert list(array) == [2, 255, 0, 0]


@pytest.mark.parametrize("type_key", shm.BufferType)
def test_a_place_that_is_not_there_is_an_index_error(name: str, type_key: str):
    array = made(3, type_key, name)
    for index in (3, -4, 2**70):
        with pytest.raises(IndexError):
            array[index]
        with pytest.raises(IndexError):
            array[index] = 1
    assert list(array) == [0, 0, 0]
    assert list(array[5:]) == []


def test_a_detached_array_says_so_and_its_views_are_stale_but_no_crash(name: str):
    array = made(4, "Uint32Array", name)
    array[0] = 7
    views = [memoryview(array).cast("B"), array[:], np.asarray(array)]
    shm.detach(name)
    for use in (lambda: array[0], lambda: array[:], lambda: list(array)):
        with pytest.raises(RegionClosedError, match="is detached: get it again"):
            use()
    with pytest.raises(RegionClosedError, match="is detached: get it again"):
        array[0] = 1
    for view in views:
        bytes(view)
        view[0] = 1
    assert got(name, "Uint32Array")[0] == 7  # those stores went nowhere


def test_an_array_says_what_it_is(name: str):
    array = made(4, "Uint32Array", f"/{name}")
    assert repr(array) == f"<Uint32Array of 4 elements, key '/{name}'>"
    assert type(array).__name__ == array.type_key == "Uint32Array"


# ---- calls -------------------------------------------------------------------


@pytest.mark.parametrize("kind", LIVES)
def test_every_call_returns_what_it_should_and_keeps_the_totals(
    kind: str, name: str, sysv_key: int
):
    def totals() -> tuple[int, int]:
        return shm.get_total_size(), shm.get_total_created_size()

    assert life_of(sysv_key if kind == "sysv" else name, kind, shm, totals) == list(
        map(repr, LIVES[kind])
    )


def test_a_posix_object_is_got_again_after_its_creator_detached(name: str):
    made(10, "Float32Array", name)[9] = 0.5
    assert shm.detach(name) == 1
    assert got(name, "Float32Array")[9] == 0.5
    assert got(name, "Buffer")[39] == struct.pack("f", 0.5)[-1]
    assert (shm.get_total_size(), shm.get_total_created_size()) == (2 * 48, 48)
    assert shm.detach(name) == 1
    assert (shm.get_total_size(), shm.get_total_created_size()) == (0, 48)
    assert shm.detach(name, force_destroy=True) == 0


def test_an_object_that_has_got_the_name_since_is_not_destroyed(name: str):
    made(8, "Buffer", name)
    os.unlink(f"/dev/shm/{name}")
    Path(f"/dev/shm/{name}").write_bytes(header(4) + b"mine")
    assert shm.destroy(name) is False
    assert bytes(got(name)[:]) == b"mine"
    assert shm.destroy(name) is True


def test_detaching_all_tells_how_many_segments_it_destroyed(name: str, sysv_key: int):
    made(8, "Buffer", name)
    made(8, "Buffer", sysv_key)
    private = made(8)
    got(sysv_key)
    assert shm.detach_all() == 2  # a posix object is not destroyed
    assert shm.detach_all() == 0
    assert segment_of(sysv_key) is None
    assert segment_of(int(private.key)) is None
    assert os.path.exists(f"/dev/shm/{name}")
    assert shm.get_total_size() == 0


def test_what_cannot_be_destroyed_is_logged_and_the_rest_goes_on(
    sysv_key: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    made(8, "Buffer", sysv_key)
    private = made(8)
    unlink = Region.unlink

    def refuse(region: Region) -> None:
        if region.key == sysv_key:
            raise PermissionError(1, "not yours")
        unlink(region)

    with monkeypatch.context() as patched:
        patched.setattr(Region, "unlink", refuse)
        assert shm.detach_all() == 1
    assert f"cannot destroy the segment {sysv_key}" in caplog.text
    assert segment_of(int(private.key)) is None
    assert shm.destroy(sysv_key)


def test_types_are_numbered_as_in_the_original():
    assert list(shm.BufferType.items())[:4] == [
        ("Buffer", 0), ("Int8Array", 1), ("Uint8Array", 2), ("Uint8ClampedArray", 3),
    ]  # fmt: skip
    assert (len(shm.BufferType), shm.BufferType["Float64Array"]) == (10, 9)


def test_a_name_is_the_same_with_and_without_its_slash(name: str):
    made(4, "Buffer", name)
    assert shm.create(4, "Buffer", f"/{name}") is None
    assert shm.detach(f"/{name}") == 1
    assert shm.destroy(name)


def test_every_attachment_of_the_process_ends_with_detach(sysv_key: int):
    arrays = [made(8, "Buffer", sysv_key), got(sysv_key), got(sysv_key, "Float64Array")]
    assert shm.get_total_size() == 24
    assert (segment_of(sysv_key) or {})["nattch"] == 3
    assert shm.detach(sysv_key) == 0
    assert segment_of(sysv_key) is None
    assert all(array.region.closed for array in arrays)


def test_a_new_segment_of_the_same_key_is_not_taken_for_the_old_one(sysv_key: int, run_python):
    made(8, "Buffer", sysv_key)
    run_python(
        "import sys; from shm_async import shm_typed_array as s; s.destroy(int(sys.argv[2]))",
        str(sysv_key),
    )
    assert segment_of(sysv_key) is None
    fresh = made(16, "Buffer", sysv_key)
    assert len(fresh) == 16
    assert shm.detach(sysv_key) == 0


@pytest.mark.parametrize("kind", ["sysv", "posix"])
def test_what_somebody_else_destroyed_and_made_anew_is_not_counted_as_created_here(
    kind: str, name: str, sysv_key: int
):
    key, layout, extra = (sysv_key, "raw", 0) if kind == "sysv" else (name, "sized", 8)
    made(100, "Buffer", key)
    with Region.attach(key, layout="raw") as somebody:
        somebody.unlink()
    with Region.create(key, 5, layout=layout) as fresh:
        assert shm.get_total_created_size() == 100 + extra  # it cannot know yet
        assert len(got(key)) == 5
        assert (shm.get_total_size(), shm.get_total_created_size()) == (105 + 2 * extra, 0)
        assert shm.detach(key) == 1
        fresh.unlink()


@pytest.mark.parametrize(
    ("perm", "mode"), [(0o600, 0o600), ("600", 0o600), ("660", 0o660), (0o644, 0o644)]
)
def test_permissions_are_octal_digits_or_an_int(name: str, sysv_key: int, perm, mode: int):
    made(1, "Buffer", name, perm)
    made(1, "Buffer", sysv_key, perm)
    assert stat.S_IMODE(os.stat(f"/dev/shm/{name}").st_mode) == mode
    assert (segment_of(sysv_key) or {})["perms"] & 0o777 == mode
    shm.destroy(name)


@pytest.mark.parametrize("perm", ["abc", "", "999", "0o600", 660, -1, 1.5, None, True, "-1"])
def test_permissions_that_make_no_sense_create_nothing(name: str, perm):
    with pytest.raises((ValueError, TypeError), match="perm|mode"):
        shm.create(1, "Buffer", name, perm)
    assert not os.path.exists(f"/dev/shm/{name}")


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", None, True, shm.LENGTH_MAX + 1])
def test_counts_that_make_no_sense_create_nothing(name: str, sysv_key: int, count):
    for key in (name, sysv_key, None):
        with pytest.raises((ValueError, TypeError), match="^count must be"):
            shm.create(count, "Buffer", key)
    assert not os.path.exists(f"/dev/shm/{name}")
    assert segment_of(sysv_key) is None


def test_a_count_may_be_anything_with_an_index(name: str):
    assert len(made(np.int64(3), "Float64Array", name)) == 3


def test_a_segment_that_is_no_whole_number_of_elements_is_refused_and_stays(sysv_key: int):
    with Region.create(sysv_key, 13, layout="raw") as region:
        region.buffer[:] = bytes(range(13))
        with pytest.raises(RegionSizeError, match="has 13 bytes, no whole number of float64"):
            shm.get(sysv_key, "Float64Array")
        assert shm.get_total_size() == 0
        assert region.attachments == 1
        assert got(sysv_key, "Uint8Array")[12] == 12
        assert shm.detach(sysv_key) == 1
        assert region.snapshot() == bytes(range(13))
        region.unlink()


@pytest.mark.parametrize("key", [0, -1, 2**32 - 1, 1.5, True, b"name", "", "/", "/a/b", ".."])
@pytest.mark.parametrize("call", [shm.get, shm.detach, shm.destroy])
def test_keys_that_make_no_sense_are_refused_by_every_call(call, key):
    with pytest.raises((ValueError, TypeError)):
        call(key)


@pytest.mark.parametrize("type_key", ["Nope", "", None, 3, "toString"])
def test_an_unknown_type_key_is_refused_and_the_known_ones_are_named(name: str, type_key):
    with pytest.raises(ValueError, match="unknown type key .*Float64Array"):
        shm.create(1, type_key, name)
    with pytest.raises(ValueError, match="unknown type key"):
        shm.get(name, type_key)
    assert not os.path.exists(f"/dev/shm/{name}")


# ---- headers that lie ----------------------------------------------------------


def header(size: int) -> bytes:
    return size.to_bytes(8, sys.byteorder)


@pytest.mark.parametrize(
    ("content", "type_key"),
    [
        (header(17) + bytes(16), "Buffer"),
        (header(2**64 - 1) + bytes(16), "Buffer"),
        (header(2**63) + bytes(16), "Float64Array"),
        (header(0) + bytes(16), "Buffer"),
        (header(15) + bytes(16), "Int16Array"),
        (b"\x01\x00\x00", "Buffer"),
    ],
    ids=["larger", "largest", "negative", "zero", "no multiple", "no header"],
)
def test_a_header_that_lies_is_an_error_that_says_so(name: str, content: bytes, type_key: str):
    Path(f"/dev/shm/{name}").write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        shm.get(f"/{name}", type_key)
    assert isinstance(caught.value, RegionFormatError) or "bytes" in str(caught.value)
    assert Path(f"/dev/shm/{name}").read_bytes() == content
    assert shm.get_total_size() == 0


# ---- exits, forks, signals -----------------------------------------------------


def test_a_childs_exit_destroys_nothing_that_its_parent_has(name: str, run_python, sysv_key: int):
    result = run_python(
        """
import os, sys
from shm_async import shm_typed_array as shm
key = int(sys.argv[2])
array = shm.create(4, "Buffer", key)
child = os.fork()
if child == 0:
    array[0] = 7
    print("child created", shm.get_total_created_size(), "of", shm.get_total_size())
    sys.exit(0)  # with its clean-up
os.waitpid(child, 0)
again = shm.get(key)
print(again is not None and again[0], shm.get_total_created_size())
""",
        str(sysv_key),
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["child created 0 of 4", "7 4"]
    assert segment_of(sysv_key) is None


def test_a_child_that_outlives_its_parent_destroys_what_it_was_the_last_to_have(
    run_python, sysv_key: int
):
    result = run_python(
        """
import os, sys
from shm_async import shm_typed_array as shm
key = int(sys.argv[2])
array = shm.create(4, "Buffer", key)
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.close(write_end)
    os.read(read_end, 1)  # until the parent is gone
    print("child has", array[0], shm.detach(key), flush=True)
    os._exit(0)
array[0] = 9
sys.stdout.flush()
""",
        str(sysv_key),
    )
    assert result.stdout == "child has 9 0\n"
    assert segment_of(sysv_key) is None


SIGNALLED = """
import os, signal, sys
from shm_async import shm_typed_array as shm
def mine(*_):
    print("mine ran", flush=True)
    os._exit(3)
if sys.argv[2] == "handler":
    signal.signal(signal.SIGTERM, mine)
elif sys.argv[2] == "ignored":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
shm.create(4, "Buffer", int(sys.argv[1]))
shm.cleanup_on_signals()
shm.cleanup_on_signals()
print("ready", flush=True)
sys.stdin.readline()
"""


def signalled(key: int, kind: str, number: signal.Signals) -> tuple[str, int]:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(key), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert segment_of(key) is not None
        process.send_signal(number)
        return process.communicate("\n", timeout=20)[0], process.returncode


def test_a_deadly_signal_cleans_up_and_still_kills(sysv_key: int):
    assert signalled(sysv_key, "default", signal.SIGTERM) == ("", -signal.SIGTERM)
    assert segment_of(sysv_key) is None


def test_ctrl_c_cleans_up_and_is_still_a_keyboard_interrupt(sysv_key: int):
    printed, code = signalled(sysv_key, "default", signal.SIGINT)
    assert (printed, code) == ("", -signal.SIGINT)
    assert segment_of(sysv_key) is None


def test_the_handler_that_was_there_runs_after_the_clean_up(sysv_key: int):
    assert signalled(sysv_key, "handler", signal.SIGTERM) == ("mine ran\n", 3)
    assert segment_of(sysv_key) is None


def test_a_signal_that_was_ignored_stays_ignored(sysv_key: int):
    assert signalled(sysv_key, "ignored", signal.SIGTERM) == ("", 0)
    assert segment_of(sysv_key) is None  # by the end of the program
