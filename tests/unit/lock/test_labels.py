"""A label says what a lock is for, in warnings and in `holders()`; without one nothing changes."""

import logging
import re
import threading

import anyio
import pytest
from rivals import Rival
from waits import until, wait_until

from shm_async import OwnerDiedError, Region
from shm_async._lock.labels import LABEL


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture):
    """The messages of the logger "shm_async" so far."""
    caplog.set_level(logging.WARNING, "shm_async")
    return lambda: [each.getMessage() for each in caplog.records if each.name == "shm_async"]


def labels(region: Region) -> list[str | None]:
    return [holder.label for holder in region.holders()]


def makers(region: Region):
    return [
        region.read_lock(label="checkout"),
        region.write_lock(label="checkout"),
        region.write_lock(label="checkout", recover=True),
        region.transaction(label="checkout"),
    ]


def test_a_lock_without_a_label_has_none(region: Region):
    assert region.read_lock().label is region.write_lock().label is None
    assert region.write_lock(recover=True).label is None
    with region.write_lock():
        assert labels(region) == [None]


@pytest.mark.parametrize("number", range(4), ids=["read", "write", "recover", "transaction"])
async def test_holders_show_the_label_for_as_long_as_it_is_held(region: Region, number: int):
    lock = makers(region)[number]
    assert "'checkout'" in repr(lock)
    for _ in range(2):
        with lock as view:
            assert len(view) == 8
            assert labels(region) == ["checkout"]
        async with lock:
            assert labels(region) == ["checkout"]
            assert "checkout" in repr(lock)
        assert labels(region) == []
    with region.write_lock():
        assert labels(region) == [None]


def test_explicit_calls_and_conversions_keep_the_label(region: Region):
    hold = region.read_lock(label="report")
    hold.acquire_blocking()
    assert labels(region) == ["report"]
    assert hold.upgrade_blocking()
    hold.view[0] = 1
    assert labels(region) == ["report"]
    hold.downgrade()
    assert labels(region) == ["report"]
    hold.release()
    hold.acquire_nowait()
    assert labels(region) == ["report"]
    hold.release()
    assert hold.label == "report"


async def test_a_nested_lock_leaves_the_outer_label_as_it_was(region: Region):
    async with region.read_lock(label="outer"):
        async with region.read_lock():
            assert labels(region) == ["outer"]
        async with region.read_lock(label="inner"):
            assert labels(region) == ["inner"]
        assert labels(region) == ["outer"]
    async with region.read_lock():
        async with region.read_lock(label="inner"):
            assert labels(region) == ["inner"]
        assert labels(region) == [None]


async def test_readers_together_show_each_label_once(region: Region):
    inside, end = [], anyio.Event()

    async def read(label: str | None) -> None:
        async with region.read_lock(label=label):
            inside.append(label)
            await end.wait()

    async with anyio.create_task_group() as group:
        for label in ("b", None, "a", "b"):
            group.start_soon(read, label)
        await until(lambda: len(inside) == 4)
        assert labels(region) == ["a, b"]
        end.set()


async def test_tasks_that_wait_show_their_label(region: Region):
    async def write() -> None:
        async with region.write_lock(label="refund"):
            pass

    async with anyio.create_task_group() as group:
        async with region.write_lock(label="checkout"):
            group.start_soon(write)
            await until(lambda: region.statistics().waiting == 1)
            assert sorted(labels(region)) == ["checkout", "refund"]


async def test_a_slow_hold_is_logged_with_its_label(region: Region, logged):
    region.slow_hold = 1e-9
    async with region.write_lock(label="checkout"):
        pass
    with region.read_lock(label="report"):
        pass
    async with region.write_lock():
        pass
    messages = logged()
    assert "a write lock 'checkout' was held for" in messages[0]
    assert "a read lock 'report' was held for" in messages[1]
    assert "a write lock was held for" in messages[2]


async def test_a_slow_hold_that_is_handed_on_is_logged_with_its_own_label(region: Region, logged):
    region.slow_hold = 1e-9

    async def write() -> None:
        async with region.write_lock(label="second"):
            pass

    async with anyio.create_task_group() as group:
        async with region.write_lock(label="first"):
            group.start_soon(write)
            await until(lambda: region.statistics().waiting == 1)
    assert [message.split("'")[3] for message in logged()] == ["first", "second"]


async def test_a_slow_wait_is_logged_with_the_labels_of_both(region: Region, logged):
    region.slow_wait = 0.02

    async def write() -> None:
        async with region.write_lock(label="refund"):
            pass

    async with anyio.create_task_group() as group:
        async with region.write_lock(label="checkout"):
            group.start_soon(write)
            await until(logged)
    (said,) = logged()
    assert "waiting for the write lock 'refund' for" in said
    assert re.search(r"write lock 'checkout', for \d+\.\d+ s", said)


def test_a_thread_that_waits_too_long_is_logged_with_its_label(region: Region, logged):
    region.slow_wait = 0.02

    def write() -> None:
        with region.write_lock(label="refund"):
            pass

    with region.write_lock():
        thread = threading.Thread(target=write)
        thread.start()
        wait_until(logged)
    thread.join()
    assert "waiting for the write lock 'refund' for" in logged()[0]


async def test_a_cancelled_wait_leaves_no_label(region: Region, rival: Rival):
    assert rival.do("exclusive") == "done"
    hold = region.write_lock(label="checkout")
    with anyio.move_on_after(0.01):
        async with hold:
            raise AssertionError
    assert [label for label in labels(region) if label] == []
    assert rival.do("unlock") == "done"
    async with region.write_lock():
        assert labels(region) == [None]


def test_a_lock_of_the_same_thread_without_a_label_is_logged_without_one(region: Region, logged):
    region.slow_hold = 1e-9
    hold = region.read_lock(label="report")
    hold.acquire_blocking()
    with pytest.raises(RuntimeError, match="nothing to downgrade"):
        hold.downgrade()
    hold.upgrade_blocking()
    hold.downgrade()
    hold.upgrade_nowait()
    hold.release()
    told = len(logged())
    assert all("lock 'report' was held" in message for message in logged())
    with region.write_lock():
        pass
    assert "a write lock was held" in logged()[told]


def test_a_lock_is_released_although_its_figures_cannot_be_kept(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    def fail(label: str, seconds: float) -> None:
        raise MemoryError

    monkeypatch.setattr(region._table.ledger.labels, "held", fail)
    with pytest.raises(MemoryError), region.write_lock(label="checkout"):
        pass
    hold = region.write_lock()
    hold.acquire_nowait()
    hold.release()
    assert LABEL.get() is None


def test_a_dropped_hold_leaves_no_label(region: Region):
    hold = region.write_lock(label="checkout")
    hold.acquire_blocking()
    with pytest.warns(ResourceWarning, match="WriteHold 'checkout'"):
        del hold
    with region.write_lock():
        assert labels(region) == [None]


def test_a_decorated_function_keeps_the_label(region: Region):
    @region.write_lock(label="checkout")
    def total() -> list[str | None]:
        return labels(region)

    assert total() == ["checkout"]


def test_an_error_inside_ends_it_like_any_other(region: Region):
    with pytest.raises(KeyError):
        with region.write_lock(label="checkout"):
            raise KeyError
    assert labels(region) == []
    with pytest.raises(OwnerDiedError):
        with region.transaction(label="checkout"):
            raise OwnerDiedError
    assert labels(region) == []


@pytest.mark.parametrize("nonsense", ["", "x" * 101, "two\nlines", "\x1b[31m"])
def test_a_label_is_a_line_of_text(region: Region, nonsense: str):
    for lock in (region.read_lock, region.write_lock, region.transaction):
        with pytest.raises(ValueError, match="label must be 1 to 100 printable"):
            lock(label=nonsense)
    with pytest.raises(ValueError, match="label"):
        region.write_lock(recover=True, label=nonsense)


def test_a_label_is_a_str(region: Region):
    for lock in (region.read_lock, region.write_lock, region.transaction):
        with pytest.raises(TypeError, match="label must be a str, not int"):
            lock(label=3)


async def test_nothing_is_remembered_of_holds_that_have_ended(region: Region):
    for number in range(3):
        async with region.read_lock(label=f"label {number}"):
            assert len(region._table.labelled) == 1
        with region.write_lock(label=f"label {number}"):
            pass
    assert region._table.labelled == {}
