"""Layout `sized`: 8 bytes that tell how many follow. test_region.py has the others."""

import os
import struct
from pathlib import Path

import pytest
from rivals import Rival

from shm_async import Region, RegionFormatError, RegionSizeError


def sized(said: int, data: bytes) -> bytes:
    """An object whose header says that it has so many bytes of data."""
    return struct.pack("@N", said) + data


def test_the_object_is_the_byte_count_and_the_data(name: str):
    with Region.create(name, 3, dtype="uint32", layout="sized") as region:
        region.buffer[2] = 7
        expected = sized(12, struct.pack("3I", 0, 0, 7))
        assert Path(f"/dev/shm/{name}").read_bytes() == expected
        assert (region.nbytes, region.generation) == (12, None)


def test_it_must_be_asked_for_else_the_header_is_data_too(name: str):
    with Region.create(name, 4, layout="sized"), Region.attach(name) as other:
        assert (other.layout, bytes(other.buffer)) == ("raw", sized(4, bytes(4)))


def test_the_header_counts_not_the_object(name: str):
    Path(f"/dev/shm/{name}").write_bytes(sized(4, b"datarest"))
    with Region.attach(name, layout="sized") as region:
        assert bytes(region.buffer) == b"data"
        region.buffer[:] = b"DATA"
    assert Path(f"/dev/shm/{name}").read_bytes() == sized(4, b"DATArest")


def test_fewer_elements_may_be_asked_for_but_not_more(name: str):
    with Region.create(name, 4, dtype="int16", layout="sized"):
        with Region.attach(name, 3, dtype="int16", layout="sized") as other:
            assert len(other) == 3
        with pytest.raises(RegionSizeError, match="has 8 bytes, less than 5 elements of int16"):
            Region.attach(name, 5, dtype="int16", layout="sized")


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize(
    ("content", "dtype", "says"),
    [
        (sized(17, bytes(16)), "uint8", "says 17 bytes of data, and its 24 bytes cannot hold them"),
        (sized(2**64 - 1, bytes(16)), "uint8", "its 24 bytes cannot hold them"),
        (sized(2**64 - 8, bytes(16)), "float64", "its 24 bytes cannot hold them"),
        (sized(2**63, bytes(16)), "float64", "its 24 bytes cannot hold them"),
        (sized(15, bytes(16)), "int16", "that is no whole number of int16 elements"),
        (sized(16, bytes(16))[:7], "uint8", "there must be some"),
        (sized(16, b""), "uint8", "its 8 bytes cannot hold them"),
    ],
    ids=["larger", "largest", "wraps", "negative", "no multiple", "no header", "no data"],
)
def test_a_header_that_lies_is_refused_and_nothing_is_changed(
    name: str, content: bytes, dtype: str, says: str, readonly: bool
):
    Path(f"/dev/shm/{name}").write_bytes(content)
    with pytest.raises(RegionFormatError, match=says) as caught:
        Region.attach(name, dtype=dtype, layout="sized", readonly=readonly)
    assert name in str(caught.value)
    assert "attach with layout='raw' to look at it" in str(caught.value)
    with Region.attach(name, layout="raw", readonly=readonly) as region:
        assert bytes(region.buffer) == content


def test_a_header_that_begins_to_lie_later_moves_nobodys_memory(name: str):
    with Region.create(name, 4, layout="sized") as region:
        os.pwrite(region._attachment.segment.fd, struct.pack("@N", 2**40), 0)
        with region.write_lock() as view:
            view[:] = b"data"
            assert len(view) == 4
        assert region.snapshot() == b"data"
        with pytest.raises(RegionFormatError, match="says 1099511627776 bytes of data"):
            Region.attach(name, layout="sized")


def test_an_attacher_waits_for_the_header_of_a_creator_at_work(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    path = Path(f"/dev/shm/{name}")
    path.write_bytes(bytes(12))  # as it is between ftruncate and the first store
    pauses = []

    def the_creator_goes_on(seconds: float) -> None:
        pauses.append(seconds)
        path.write_bytes(sized(4, b"data"))

    with monkeypatch.context() as patched:
        patched.setattr("shm_async._memory.posix.time.sleep", the_creator_goes_on)
        region = Region.attach(name, layout="sized")
    with region:
        assert bytes(region.buffer) == b"data"
    assert len(pauses) == 1


def test_an_object_whose_header_stays_zero_is_refused(name: str):
    Path(f"/dev/shm/{name}").write_bytes(bytes(24))
    with pytest.raises(RegionFormatError, match="says 0 bytes of data, and there must be some"):
        Region.attach(name, layout="sized")


def test_it_has_the_lock_transactions_and_snapshots(name: str):
    with Region.create(name, 4, layout="sized") as region:
        rival = Rival(name)
        try:
            with region.transaction() as view:
                view[:] = b"data"
                assert rival.do("try-shared") == "busy"
            with region.read_lock() as view:
                assert rival.do("try-exclusive") == "busy"
                assert bytes(view) == b"data"
            assert rival.do("exclusive") == "done"
            assert rival.do("unlock") == "done"
        finally:
            rival.close()
        assert region.snapshot() == b"data"
        assert Path(f"/dev/shm/{name}").read_bytes() == sized(4, b"data")


def test_one_that_was_truncated_is_told_of(name: str):
    with Region.create(name, 8192, layout="sized") as region:
        os.truncate(f"/dev/shm/{name}", 4096)
        with pytest.raises(RegionSizeError, match="was truncated"):
            region.write_lock().acquire_blocking()
