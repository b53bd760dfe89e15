"""The table of a service's figures, and a process that is killed at any line of its code."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from forks import in_child, start_child, status_of

from shm_async import Region
from shm_async.contrib import _together
from shm_async.contrib._together import Together, figures_of_table, purposes_of_table

pytestmark = pytest.mark.once

#: What stores something: a kill at other lines finds the same table.
STORING = {"_put", "_my_row", "_bury", "_write"}


@pytest.fixture
def table(name: str) -> Iterator[str]:
    yield f"{name}.metrics"
    os.unlink(f"/dev/shm/{name}.metrics")


def write(region: Region, label: str | None = None) -> None:
    with region.write_lock() if label is None else region.write_lock(label=label):
        pass


def killed_at(
    line: int, work: Callable[[], object], *, first: Callable[[], object] = lambda: None
) -> bool:
    """Run `first` and `work` in a child, killed in `work` before that line of what stores.

    False: it had ended before it came so far.
    """

    def run() -> None:
        first()
        left = line

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            if event == "call":
                ours = frame.f_code.co_filename == _together.__file__
                return trace if ours and frame.f_code.co_name in STORING else None
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        work()

    return status_of(start_child(run)) == -signal.SIGKILL


def test_a_process_that_is_killed_as_it_adds_the_dead_loses_and_doubles_nothing(
    region: Region, table: str
):
    together = Together(table, [region], processes=3)

    def count() -> None:
        write(region)
        together.publish()

    line, killed = 0, True
    while killed:
        in_child(count)
        killed = killed_at(line, together.sum)
        line += 1
        assert figures_of_table(table)[region.name]["writes"] == line
        assert together.sum()[region.name]["writes"] == line
    together.close()
    assert line > 20


def test_a_process_that_is_killed_as_it_writes_its_row_keeps_the_last_one(
    region: Region, table: str
):
    together = Together(table, [region], processes=3)

    def count() -> None:
        write(region)
        together.publish()

    line, total, killed = 0, 0, True
    while killed:
        killed = killed_at(line, count, first=count)
        line += 1
        now = together.sum()[region.name]["writes"]
        assert now - total in ((1, 2) if killed else (2,))
        total = now
    together.close()
    assert line > 5


def test_the_memory_of_a_table_is_taken_when_it_is_made(region: Region, table: str):
    Together(table, [region], processes=3).close()
    assert os.stat(f"/dev/shm/{table}").st_blocks * 512 >= 4 * _together.ROW


def test_many_labels_have_room(region: Region, table: str):
    together = Together(table, [region], processes=1)
    for number in range(100):
        write(region, f"the purpose of number {number}")
    figures = together.sum()[region.name]
    assert (figures["writes"], len(figures["labels"])) == (100, 100)
    together.close()


def test_labels_that_are_too_long_are_left_out(
    region: Region, table: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_together, "SIDE", 400)
    together = Together(table, [region], processes=1)
    for _ in range(30):
        write(region, os.urandom(40).hex())
    figures = together.sum()[region.name]
    assert (figures["writes"], figures["labels"]) == (30, {})
    together.close()


def test_missing_figures_are_logged_once(
    region: Region, table: str, caplog: pytest.LogCaptureFixture
):
    first = Together(table, [region], processes=1)
    first.publish()
    second = Together(table, [region], processes=1)
    second.me = [1, 1, first.me[2]]
    for _ in range(3):
        write(region)
        second.publish()
    assert [record.name for record in caplog.records] == ["shm_async"]
    assert f"table {table!r} misses figures: all rows are taken" in caplog.text
    first.close()
    second.close()


def test_a_live_process_that_proc_hides_is_not_taken_for_dead(
    region: Region, table: str, monkeypatch: pytest.MonkeyPatch
):
    together = Together(table, [region], processes=2)
    monkeypatch.setattr(_together, "start_of", lambda pid: None)
    parent = [os.getppid(), 1, together.me[2]]
    assert not together._has_ended(parent)
    monkeypatch.setattr(_together, "start_of", lambda pid: 2)
    assert together._has_ended(parent)
    together.close()


def test_a_table_is_closed_if_its_thread_cannot_start(
    region: Region, table: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        Together(table, [region], processes=1)


def test_a_row_tells_what_a_write_that_goes_on_is_for(region: Region, table: str):
    together = Together(table, [region], processes=1)
    write(region, "checkout")
    for label in ("checkout", "refund"):
        with region.write_lock(label=label):
            together.publish()
            found = purposes_of_table(table)
            assert found == {region.name: {region.generation: label}}
    with region.read_lock(label="report"):
        together.publish()
        assert purposes_of_table(table) == {}
    with region.write_lock():
        together.publish()
        assert purposes_of_table(table) == {}
    together.close()


@pytest.mark.parametrize(
    "nonsense", [7, {"x": 7}, {"x": [1, 2]}, {"x": ["1", "y"]}, {"x": [True, "y"]}]
)
def test_purposes_that_make_no_sense_are_none(nonsense: object):
    assert list(_together._sound_purposes(nonsense)) == []
    assert list(_together._sound_purposes({"x": [3, "y" * 200]})) == [("x", (3, "y" * 100))]
