"""The calls of shm_typed_array: what they return, count and refuse."""

import os
import stat
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from arrays import got, made
from peers import LIVES, life_of, segment_of

from shm_async import Region, RegionFormatError, RegionSizeError
from shm_async import shm_typed_array as shm
from shm_async._memory.sysv_segment import SysvSegment

pytestmark = pytest.mark.usefixtures("nothing_stays_attached")


# ---- calls -------------------------------------------------------------------------------------


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
    floats, octets = got(name, "Float32Array"), got(name, "Buffer")
    assert floats[9] == 0.5
    assert octets[39] == struct.pack("f", 0.5)[-1]
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
    unlink = SysvSegment.unlink

    def refuse(segment: SysvSegment) -> None:
        if segment.key == sysv_key:
            raise PermissionError(1, "not yours")
        unlink(segment)

    with monkeypatch.context() as patched:
        patched.setattr(SysvSegment, "unlink", refuse)
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
    assert shm.get_total_size() == 16  # once for each type
    assert (segment_of(sysv_key) or {})["nattch"] == 2
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
    old = made(100, "Buffer", key)
    with Region.attach(key, layout="raw") as somebody:
        somebody.unlink()
    with Region.create(key, 5, layout=layout) as fresh:
        assert shm.get_total_created_size() == 100 + extra  # it cannot know yet
        new = got(key)
        assert (len(old), len(new)) == (100, 5)
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


# ---- headers that lie --------------------------------------------------------------------------


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
