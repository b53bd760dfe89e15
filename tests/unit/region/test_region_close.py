"""A region is closed, and what becomes of its locks and views."""

import copy
import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
from looking import is_mapped

from shm_async import Region, RegionClosedError

# ---- close -------------------------------------------------------------------------------------


def test_close_is_idempotent_and_ends_all_use(region: Region):
    region.close()
    region.close()
    assert region.closed
    for use in (
        region.read_lock,
        region.write_lock,
        region.__enter__,
        lambda: region.buffer,
        lambda: region.generation,
        lambda: region.linked,
    ):
        with pytest.raises(RegionClosedError, match="closed: open it again"):
            use()
    assert (len(region), region.nbytes, region.dtype) == (8, 64, "uint64")


async def test_a_hold_made_before_close_is_refused_after_it(region: Region):
    reader, writer = region.read_lock(), region.write_lock(fast_acquire=False)
    region.close()
    for hold in (reader, writer):
        with pytest.raises(RegionClosedError):
            await hold.acquire()
        with pytest.raises(RegionClosedError):
            hold.acquire_blocking()
        with pytest.raises(RegionClosedError):
            hold.acquire_nowait()


async def test_async_with_closes(name: str):
    async with Region.create(name, 1) as region:
        assert not region.closed
    assert region.closed


def test_a_region_that_was_never_closed_warns_and_is_closed(name: str):
    region = Region.create(name, 1)
    with pytest.warns(ResourceWarning, match="never closed"):
        del region
        gc.collect()


def test_the_mapping_goes_with_the_last_view(name: str):
    region = Region.create(name, 4096)
    identity = region._attachment.segment.identity
    view = region.buffer[10:20]
    region.close()
    assert is_mapped(identity)
    view[0] = 1
    del view
    assert not is_mapped(identity)


STALE = """
import ctypes, sys
import numpy as np
from shm_async import Region

class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

region = Region.create(sys.argv[1], 1024, dtype="uint64")
kept = []
with region.write_lock() as view:
    kept += [view[1:3], view.cast("B"), np.frombuffer(view, "u8"), np.ndarray(1024, "u8", view)]
    kept += [np.asarray(view)[5:9], Pair.from_buffer(view), memoryview(view)]
with region.read_lock() as view:
    kept += [np.asarray(view), view[2:]]
kept += [region.buffer]
del view
region.close()
region.unlink()
del region
for each in kept:
    if isinstance(each, Pair):
        each.a += 1
    elif isinstance(each, np.ndarray):
        each.sum()
        if each.flags.writeable:
            each[0] = 3
    else:
        bytes(each)
print("alive", len(kept))
"""


def test_views_that_outlive_everything_are_stale_but_never_a_crash(run_python):
    done = run_python(STALE)
    assert (done.stdout, done.stderr, done.returncode) == ("alive 10\n", "", 0)


def test_a_view_ends_with_its_block(region: Region):
    with region.write_lock() as view:
        view[0] = 1
    with pytest.raises(ValueError, match="released"):
        view[0]
    with region.read_lock() as view:
        array = np.asarray(view)  # keeps the view from being released
    assert array[0] == 1


def test_releasing_the_buffer_property_harms_nobody(region: Region):
    region.buffer.release()
    region.buffer[0] = 1
    with region.read_lock() as view:
        assert view[0] == 1


def test_regions_are_not_copied_by_accident(region: Region):
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"cannot be copied: attach to it by name"):
            duplicate(region)


def test_holds_and_transactions_are_neither_copied_nor_pickled(region: Region):
    for each in (region.read_lock(), region.write_lock(), region.transaction()):
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                duplicate(each)


# ---- the package -------------------------------------------------------------------------------


def test_closing_with_discard_gives_the_memory_back_at_once_and_blanks_the_views(region: Region):
    region.buffer[0] = 7
    attached = Region.attach(region.name)
    views = [attached.buffer, attached.buffer[:2], np.asarray(attached.buffer)]
    maps = Path("/proc/self/maps")
    assert f"/dev/shm/{region.name}\n" in maps.read_text()
    attached.close(discard=True)
    assert f"/dev/shm/{region.name}\n" not in maps.read_text()
    assert [view[0] for view in views] == [0, 0, 0]
    views[0][0] = 9  # goes nowhere
    assert region.buffer[0] == 7
