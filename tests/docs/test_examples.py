"""The examples, run as a user runs them."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waits import wait_until

from shm_async import Region

pytestmark = pytest.mark.long

EXAMPLES = Path(__file__).parents[2] / "examples"


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Everything that it printed."""
    try:
        return process.communicate(timeout=50)[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # a kill would leave its region and its server
        pytest.fail(f"it did not end in time:\n{process.communicate()[0]}")


def run(script: str, *arguments: str) -> str:
    process = start(script, *arguments)
    output = finish(process)
    assert process.returncode == 0, output
    assert entries_of(process) == []
    return output


def entries_of(process: subprocess.Popen[str]) -> list[str]:
    return [entry for entry in os.listdir("/dev/shm") if entry.endswith(f"-{process.pid}")]


def rows_of(tables: str) -> dict[str, list[str]]:
    """The cells of each row, by its first cell."""
    lines = [line.split("│")[1:-1] for line in tables.splitlines() if line.startswith("│")]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in lines}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.timeout(60)
def test_web_workers_count_exactly_although_clients_hang_up():
    rows = rows_of(run("web_counter_load.py", "--requests", "400"))
    workers = [cells for first, cells in rows.items() if first.startswith("worker ")]
    assert len(workers) == 4
    for column in range(2):
        assert sum(int(cells[column]) for cells in workers) == int(rows["sum"][column])
    gave_up = int(rows["hung up before their turn"][2])
    assert gave_up > 0
    assert sum(int(cells[2]) for cells in workers) + gave_up == int(rows["sum"][2]) == 400
    assert all(int(cells[0]) + int(cells[1]) == int(cells[2]) for cells in workers)
    assert rows["counter in shared memory"] == [f"{rows['sum'][0]}: EXACT"]
    assert int(rows["lock waits cancelled"][0]) > 0
    assert rows["a plain variable instead"][0].endswith(": WRONG")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_web_counter_leaves_no_region_and_no_process(number: signal.Signals):
    demo = runpy.run_path(str(EXAMPLES / "web_counter.py"))
    process = start("web_counter_load.py", "--requests", "100000")
    try:
        wait_until(lambda: entries_of(process) != [], seconds=20)
        with Region.attach(f"web-counter-{process.pid}", readonly=True) as region:
            wait_until(lambda: region.buffer[demo["COUNT"]] > 0, seconds=20)
            pids = [pid for pid in region.buffer[demo["PIDS"]] if pid]
    finally:
        process.send_signal(number)
        output = finish(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert entries_of(process) == []
    assert len(pids) == 4
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.timeout(60)
def test_two_processes_hear_what_the_other_one_says():
    lines = run("two_processes.py").splitlines()
    said = [line.split("says:")[1].strip() for line in lines if "says:" in line]
    heard = [line.split("hears:")[1].strip() for line in lines if "hears:" in line]
    assert len(heard) == 4
    assert said[:4] == heard
    assert len({line.split(")")[0] for line in lines if "says:" in line}) == 2  # two pids
    assert lines[-1] == "process 1 gives up: no answer within 0.2 s"


@pytest.mark.timeout(60)
def test_threads_and_a_script_count_exactly_and_a_late_one_gets_a_timeout():
    lines = run("threads_and_scripts.py").splitlines()
    assert "10000 in total, 2000 by the child: EXACT" in lines
    assert lines[-1].startswith("LockTimeoutError: [Errno 110] no write lock within 0.1 s")


def test_the_two_processes_of_mmap_ipc_read_each_others_message():
    write_first = "Acquire write lock:\nTrue\n23\nFinished writing!\nRemoving lock...\nTrue\n"
    read_and_answer = (
        "Acquire read lock:\nTrue\nMessage from process #1\nFinished reading!\n"
        "Acquire write lock:\nTrue\n39\nFinished writing!\nRemoving lock...\nTrue\n"
    )
    read_answer = (
        "Acquire read lock:\nTrue\nThis is process #2, I got your message!\nFinished reading!\n"
        "Removing lock...\nTrue\n"
    )
    assert run("mmap_ipc_two_processes.py") == write_first + read_and_answer + read_answer
