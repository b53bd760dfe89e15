"""The example programs that have no web server, run as a reader runs them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import EXAMPLES
from sessions import processes_of
from waits import wait_until

from shm_async import Region

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(30)]


@contextlib.contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{script}.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        yield process
        assert process.wait(20) == 0
        wait_until(lambda: not processes_of(process.pid))
    assert not [each for each in os.listdir("/dev/shm") if each.endswith(f"-{process.pid}")]


def test_one_process_does_each_tick_and_another_one_takes_over_after_a_kill():
    with running("leader") as process:
        told = process.communicate(timeout=20)[0]
    (killed,) = re.findall(r"process (\d+) was killed", told)
    began = re.findall(r"process (\d+) is at tick (\d+)", told)
    done = re.findall(r"process (\d+) has done tick (\d+)", told)
    ticks = [int(tick) for _, tick in done]
    assert ticks == list(range(1, len(ticks) + 1))  # each once, and in order
    assert len(ticks) >= 7
    (again,) = [tick for pid, tick in began if (pid, tick) not in done and pid == killed]
    assert [pid for pid, tick in done if tick == again] != [killed]
    (seconds,) = re.findall(r"the tick was done ([\d.]+) s after the kill", told)
    assert float(seconds) < 10


def test_a_pool_goes_on_where_its_killed_worker_stopped():
    with running("progress") as process:
        region = f"progress-{process.pid}"
        wait_until(lambda: region in os.listdir("/dev/shm"))
        with Region.attach(region, readonly=True) as done:
            wait_until(lambda: sum(done.buffer[1:]) > 300)
            wait_until(lambda: len(workers_of(process.pid)) == 4)
            os.kill(workers_of(process.pid)[1], signal.SIGKILL)
        told = process.communicate(timeout=20)[0]
    (left,) = re.findall(r"a worker died; (\d+) items are left", told)
    assert 0 < int(left) < 1700
    assert told.endswith("2000 items, sum 2664667000: EXACT\n")


def workers_of(pid: int) -> list[int]:
    """Its children, but not the process that watches over semaphores."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in children if is_worker(each)]


def is_worker(pid: str) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_reader_sees_a_torn_frame_also_when_the_producer_is_killed():
    with running("sensor_frames") as process:
        told = process.communicate(timeout=20)[0]
    seen = re.findall(r"reader \d+: (\d+) frames, (\d+) of them torn", told)
    assert len(seen) == 2
    for frames, torn in seen:
        assert int(frames) > 20
        assert int(torn) == 0
    assert "the producer was killed" in told


def test_each_example_to_copy_is_short_and_says_when_not_to_use_it():
    copied = [each for each in EXAMPLES.glob("*.py") if "make example NAME=" in each.read_text()]
    assert len(copied) == 9
    for each in copied:
        text = each.read_text()
        assert text.count("\n") < 120, each
        assert f"make example NAME={each.stem}\n" in text
        words = " ".join(text.split('"""')[1].split())
        assert re.search(r"\bUse it\b", words), each
        assert re.search(r"\b([Dd]o not use it|not for)\b", words), each


def test_the_table_has_each_example():
    table = (EXAMPLES / "README.md").read_text()
    missing = [each.name for each in EXAMPLES.glob("*.py") if f"]({each.name})" not in table]
    assert missing == []
