"""`shm-async watch` and `top`: what changes, as it changes."""

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from waits import wait_until

from shm_async import Region
from shm_async._cli import rates
from shm_async._cli.top import View, _key
from shm_async._watch import inspection

COMMAND = [sys.executable, "-m", "shm_async"]


@contextlib.contextmanager
def watching(region: Region, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command once it sleeps until something changes."""
    with subprocess.Popen(
        [*COMMAND, "watch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: is_watched(region))
            yield process
        finally:
            process.kill()


def is_watched(region: Region) -> bool:
    control = inspection.inspect(region.name)[0].control
    return control is not None and bool(control["watchers"] & 1)


def write(region: Region) -> None:
    with region.write_lock() as view:
        view[0] += 1


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_watch_prints_a_line_for_each_change(region: Region):
    with watching(region, region.name) as process:
        for number in (1, 2):
            write(region)
            assert line_of(process).split()[1:] == [region.name, str(number), "writes"]
            wait_until(lambda: is_watched(region))


def test_watch_json_is_an_object_a_line(region: Region):
    with watching(region, "--json", region.name) as process:
        write(region)
        found = json.loads(line_of(process))
    assert found.pop("time") == pytest.approx(time.time(), abs=30)
    assert found == {"name": region.name, "generation": 2, "writes": 1}


def test_watch_once_ends_after_a_change(region: Region):
    with watching(region, "--once", region.name) as process:
        write(region)
        assert process.wait(10) == 0


def test_watch_runs_a_command_for_a_change_and_returns_its_status(region: Region):
    line = "echo $SHM_ASYNC_NAME $SHM_ASYNC_GENERATION; exit 3"
    with watching(region, "--once", region.name, "--", "sh", "-c", line) as process:
        write(region)
        assert line_of(process) == f"{region.name} 2\n"
        assert process.wait(10) == 3


def test_watch_ends_when_nothing_changes_for_so_long(region: Region):
    done = subprocess.run(
        [*COMMAND, "watch", "--timeout", "0.05", region.name], check=False, timeout=30
    )
    assert done.returncode == 1


def test_watch_ends_when_the_region_is_removed(region: Region):
    with watching(region, region.name) as process:
        region.unlink()
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert "no such region" in process.stderr.read()


def test_watch_follows_a_region_that_is_resized(region: Region):
    with watching(region, "--once", region.name) as process:
        region.resize(9)
        assert process.wait(10) == 0


def test_watch_refuses_what_counts_no_writes(name: str):
    with Region.create(name, 8, layout="raw"):
        done = subprocess.run(
            [*COMMAND, "watch", name], capture_output=True, text=True, check=False, timeout=30
        )
    assert done.returncode == 3
    assert "no control page" in done.stderr


# ---- top -----------------------------------------------------------------------------------------


def test_rates_are_what_happened_between_two_looks(region: Region, monkeypatch: pytest.MonkeyPatch):
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(rates, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    rater = rates.Rater(region.name)
    assert [each.rate for each in rater.look()] == [None]
    for _ in range(5):
        write(region)
    assert [each.rate for each in rater.look()] == [2.5]


def test_a_region_that_was_made_anew_has_no_rate_yet(region: Region):
    rater = rates.Rater(region.name)
    write(region)
    rater.look()
    region.unlink()
    with Region.create(region.name, 8) as second:
        assert [each.rate for each in rater.look() if each.info.linked] == [None]
        second.unlink()


def test_top_prints_so_many_tables(region: Region):
    done = subprocess.run(
        [*COMMAND, "top", "--count", "2", "--interval", "0.01", region.name],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    tables = done.stdout.split("\n\n")
    assert len(tables) == 2
    assert [table.split("\n")[1].split()[:2] for table in tables] == [[region.name, "0.0"]] * 2


def test_top_json_is_an_array_a_line(region: Region):
    done = subprocess.run(
        [*COMMAND, "top", "--json", "--count", "1", "--interval", "0.01", region.name],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    [found] = json.loads(done.stdout)
    assert (found["name"], found["writes_per_second"]) == (region.name, 0.0)


def test_keys_choose_the_order():
    view = View("writes/s")
    for key, order in ((">", "waiting"), ("<", "writes/s"), ("<", "name"), (">", "writes/s")):
        view.press(key)
        assert view.order == order
    view.press("r")
    assert view.reverse
    view.press("x")
    assert (view.order, view.reverse) == ("writes/s", True)


def test_keys_that_are_typed_at_once_all_count():
    terminal, keyboard = os.pipe()
    os.write(keyboard, b">\x1b[D\x1b[Cq")
    os.close(keyboard)
    pressed = [_key(terminal, 1) for _ in range(5)]
    os.close(terminal)
    assert pressed == [">", "<", ">", "q", "q"]  # at the end the terminal is gone


def test_top_is_live_in_a_terminal_and_ends_with_q(region: Region):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="100", LINES="20")
        os.environ.pop("NO_COLOR", None)
        os.execv(sys.executable, [*COMMAND, "top", region.name, "--interval", "0.1"])
    screen = b""
    deadline = time.monotonic() + 20
    while region.name.encode() not in screen and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            screen += os.read(fd, 65536)
    os.write(fd, b">")
    while b"by waiting" not in screen and time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            screen += os.read(fd, 65536)
    os.write(fd, b"q")
    with contextlib.suppress(OSError):  # the terminal is gone with its last user
        while os.read(fd, 65536):
            pass
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"by waiting" in screen
