"""The signal that interrupts a blocked lock: chosen or off, and no other one is touched."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Rival, path_of_tests, wait_until
from patient import HOWS

from shm_async import Region, WouldBlockError, signals
from shm_async._native import ANY_SIGNAL, NO_SIGNAL

HERE = Path(__file__).parent

#: How fast Ctrl-C must come through: a wait looks around every 0.1 s at the latest.
AT_ONCE = 0.5


def environment(choice: str | None) -> dict[str, str]:
    """For a program that chooses that signal, and finds the modules beside this one."""
    environment = {key: value for key, value in os.environ.items() if key != signals.VARIABLE}
    environment["PYTHONPATH"] = path_of_tests()
    return environment if choice is None else {**environment, signals.VARIABLE: choice}


class Patient:
    """A process that waits for the lock of a region."""

    def __init__(self, region: Region, how: str, *arguments: object, choice: str | None = "off"):
        self.gate = region._usable().gate
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "patient.py"), region.name, how, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(choice),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "asking\n"

    def until_it_waits(self) -> None:
        gate = self.gate
        assert gate is not None
        wait_until(lambda: gate[0] == 1)

    def rest(self) -> tuple[str, str]:
        """All that it says from now on; communicate() would lose what was read ahead."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return self.process.stdout.read(), self.process.stderr.read()

    def finish(self) -> tuple[str, dict[str, str]]:
        """What it said of its wait, and what it left."""
        output, errors = self.rest()
        assert (self.process.wait(10), errors) == (0, "")
        word, over, *rest = output.splitlines()
        assert over == "over"
        return word, dict(line.partition(" ")[::2] for line in rest)


@contextlib.contextmanager
def patient(*arguments: object, choice: str | None = "off") -> Iterator[Patient]:
    waits = Patient(*arguments, choice=choice)  # type: ignore[arg-type]
    try:
        yield waits
    finally:
        waits.process.kill()
        waits.rest()
        waits.process.wait()
        for pipe in (waits.process.stdout, waits.process.stderr):
            assert pipe is not None
            pipe.close()


def demand_free(region: Region) -> None:
    hold = region.write_lock()
    hold.acquire_nowait()
    hold.release()


# ---- what the variable may say ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", ANY_SIGNAL),
        ("off", NO_SIGNAL),
        ("SIGUSR1", signal.SIGUSR1),
        ("SIGUSR2", signal.SIGUSR2),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+5", signal.SIGRTMIN + 5),
        ("SIGRTMAX-2", signal.SIGRTMAX - 2),
        (str(signal.SIGRTMIN + 1), signal.SIGRTMIN + 1),
        (str(signal.SIGUSR1.value), signal.SIGUSR1),
    ],
)
def test_a_signal_is_chosen_by_number_or_name(text: str, number: int):
    assert signals.parse(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "0", "-1", "9", "32", "65", "999", "1e1", "٣٤", " off", "OFF", "on", "none",
        "SIGKILL", "SIGINT", "SIGTERM", "SIGSEGV", "USR1", "sigusr1", "SIGUSR3", "SIGUSR1+1",
        "SIGRTMIN-1", "SIGRTMAX+1", "SIGRTMIN+", "SIGRTMIN+5 ", "SIGRTMIN+5\n",
    ],
)  # fmt: skip
def test_any_other_value_is_an_error_that_says_what_is_accepted(text: str):
    with pytest.raises(ValueError, match="SHM_ASYNC_SIGNAL=.*SIGRTMIN\\+5.*SIGUSR2.*off") as caught:
        signals.parse(text)
    assert repr(text) in str(caught.value)


def test_a_bad_value_is_heard_of_at_import():
    done = subprocess.run(
        [sys.executable, "-c", "import shm_async"],
        env=environment("SIGKILL"), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ValueError: SHM_ASYNC_SIGNAL='SIGKILL' is no")


# ---- a chosen signal -------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("choice", ["SIGRTMIN+5", "SIGUSR2", None])
def test_the_chosen_signal_is_the_one_that_gets_a_handler(
    region: Region, how: str, choice: str | None
):
    expected = signal.SIGRTMAX - 1 if choice is None else signals.parse(choice)
    with region.write_lock(), patient(region, how, 0.05, choice=choice) as waits:
        word, left = waits.finish()
    assert word == "gave up"
    assert left == {"timers": "0", "signals": str(int(expected)), "threads": "0"}


TAKEN = """
import asyncio, signal, sys
from shm_async import Region
signal.signal(signal.SIGUSR2, {handler})
region = Region.attach(sys.argv[1])
async def main():
    async with region.write_lock():
        pass
for wait in (lambda: region.write_lock().acquire_blocking(timeout=5), lambda: asyncio.run(main())):
    try:
        wait()
    except OSError as error:
        print(error)
"""


@pytest.mark.parametrize("handler", ["lambda *_: None", "signal.SIG_IGN"])
def test_a_chosen_signal_that_somebody_handles_is_left_to_him(region: Region, handler: str):
    with region.write_lock():
        done = subprocess.run(
            [sys.executable, "-c", TAKEN.format(handler=handler), region.name],
            env=environment("SIGUSR2"), capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    number = int(signal.SIGUSR2)
    lines = done.stdout.splitlines()
    assert (len(lines), done.stderr) == (2, "")
    for line in lines:
        assert re.search(rf"SHM_ASYNC_SIGNAL chose signal {number}, .*choose another.*off", line)


# ---- no signal at all: waits poll ----------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
def test_without_a_signal_a_wait_is_granted(region: Region, how: str):
    with contextlib.ExitStack() as stack:
        with region.write_lock():
            waits = stack.enter_context(patient(region, how))
            waits.until_it_waits()
        word, left = waits.finish()
    assert (word, left) == ("granted", {"timers": "0", "signals": "", "threads": "0"})


@pytest.mark.parametrize("how", HOWS)
def test_without_a_signal_a_wait_can_be_given_up_and_leaves_nothing(region: Region, how: str):
    with region.write_lock(), patient(region, how, 0.05) as waits:
        word, left = waits.finish()
        assert (word, left) == ("gave up", {"timers": "0", "signals": "", "threads": "0"})
        assert waits.gate is not None
        assert waits.gate[0] == 0
    demand_free(region)


@pytest.mark.parametrize("how", HOWS)
def test_without_a_signal_who_waits_stands_at_the_gate(region: Region, how: str):
    """Readers of this process must not overtake a writer that polls."""
    with Region.attach(region.name) as other:
        with region.read_lock(), patient(region, how) as waits:
            waits.until_it_waits()
            with pytest.raises(WouldBlockError):
                other.read_lock().acquire_nowait()


@pytest.fixture
def raw(name: str) -> Iterator[Region]:
    """A region without a hint, where a rival at the gate is seen, who gives none."""
    with Region.create(name, 8, layout="raw") as region:
        yield region


@pytest.fixture
def gatekeeper(raw: Region) -> Iterator[Rival]:
    """A process that stands at the gate and sleeps there."""
    rival = Rival(raw.name)
    rival.do("gate")
    yield rival
    rival.close()


@pytest.mark.parametrize("how", HOWS)
def test_without_a_signal_a_newcomer_queues_at_the_gate(raw: Region, gatekeeper: Rival, how: str):
    gatekeeper.do("shared")
    with patient(raw, how, 0.3, "read") as waits:
        assert waits.finish()[0] == "gave up"
    with patient(raw, how, "-", "read") as waits:
        gatekeeper.do("leave")
        assert waits.finish()[0] == "granted"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", ["read", "write"])
def test_without_a_signal_one_who_sleeps_at_the_gate_is_passed(
    raw: Region, gatekeeper: Rival, how: str, kind: str
):
    with patient(raw, how, "-", kind) as waits:
        assert waits.finish()[0] == "granted"


def test_a_timeout_shorter_than_the_patience_passes_a_sleeper_too(raw: Region, gatekeeper: Rival):
    with patient(raw, "with", 0.015) as waits:
        assert waits.finish()[0] == "granted"


COUNT = """
import sys
import anyio
from patient import BACKENDS
from shm_async import Region
region, how = Region.attach(sys.argv[1]), sys.argv[2]
def add_in_thread():
    for _ in range(300):
        with region.write_lock() as view:
            add(view)
def add(view):
    seen = view[0]
    for _ in range(100):
        pass
    view[0] = seen + 1
async def add_in_tasks():
    async def one():
        for _ in range(60):
            async with region.write_lock() as view:
                seen = view[0]
                await anyio.lowlevel.checkpoint()
                view[0] = seen + 1
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
sys.stdin.readline()
if how == "with":
    add_in_thread()
else:
    backend, options = BACKENDS[how]
    anyio.run(add_in_tasks, backend=backend, backend_options=options)
region.close()
"""


def test_pollers_and_others_exclude_each_other(region: Region):
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, region.name, how],
            stdin=subprocess.PIPE,
            env=environment(choice),
        )
        for choice, how in [*(("off", how) for how in HOWS), (None, "with"), (None, "asyncio")]
    ]
    for process in crowd:
        assert process.stdin is not None
        process.stdin.close()  # go
    assert [process.wait(40) for process in crowd] == [0] * 6
    assert region.buffer[0] == 6 * 300


def test_polling_costs_next_to_no_processor_time(region: Region):
    program = """
import sys, time
from shm_async import LockTimeoutError, Region
region = Region.attach(sys.argv[1])
before = time.process_time()
try:
    region.write_lock().acquire_blocking(timeout=1)
except LockTimeoutError:
    print(time.process_time() - before)
"""
    with region.write_lock():
        done = subprocess.run(
            [sys.executable, "-c", program, region.name],
            env=environment("off"), capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    assert float(done.stdout) < 0.1  # of one second; 0.01 on a quiet machine


# ---- everybody else's signals -----------------------------------------------------------------


SERVER = """
import asyncio, os, signal, socket, sys
from shm_async import LockTimeoutError, Region
from patient import handled_signals

called = []
def handle(number, frame):
    called.append(number)

as_gunicorn = [signal.SIGABRT, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGTERM,
               signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
               signal.SIGCHLD]
for number in as_gunicorn:
    signal.signal(number, handle)
    signal.siginterrupt(number, False)
reader, writer = socket.socketpair()
writer.setblocking(False)
wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

def everything():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    return {n: signal.getsignal(n) for n in signal.valid_signals()}, fd

async def as_uvicorn():
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle, number, None)
    before = everything()
    try:
        await asyncio.wait_for(region.write_lock().acquire(), 0.05)
    except asyncio.TimeoutError:
        pass
    assert everything() == before, "asyncio"
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.05)

with Region.attach(sys.argv[1]) as region:
    before, kernels = everything(), handled_signals()
    try:
        region.write_lock().acquire_blocking(timeout=0.05)
    except LockTimeoutError:
        pass
    assert everything() == before
    print("new handlers", *sorted(handled_signals() - kernels))
    for number in as_gunicorn:
        os.kill(os.getpid(), number)
    print("called", sorted(called) == sorted(as_gunicorn))
    print("woken", sorted(reader.recv(100)) == sorted(as_gunicorn))
    called.clear()
    asyncio.run(as_uvicorn())
    print("called", called == [signal.SIGTERM])
"""


@pytest.mark.parametrize(("choice", "ours"), [(None, [signal.SIGRTMAX - 1]), ("off", [])])
def test_a_servers_handlers_and_wakeup_descriptor_are_untouched(
    region: Region, choice: str | None, ours: list[int]
):
    with region.write_lock():
        done = subprocess.run(
            [sys.executable, "-c", SERVER, region.name],
            env=environment(choice),
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    new = " ".join(["new handlers", *map(str, ours)])
    expected = f"{new}\ncalled True\nwoken True\ncalled True\n"
    assert (done.stdout, done.stderr) == (expected, "")


# ---- Ctrl-C and SIGTERM ----------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, "off"], ids=["signal", "polling"])
@pytest.mark.parametrize("how", HOWS)
def test_ctrl_c_ends_a_wait_at_once_and_leaves_nothing(
    region: Region, how: str, choice: str | None
):
    with region.write_lock(), patient(region, how, choice=choice) as waits:
        waits.until_it_waits()
        start = time.monotonic()
        waits.process.send_signal(signal.SIGINT)
        assert waits.process.stdout is not None
        assert waits.process.stdout.readline() == "over\n"
        assert time.monotonic() - start < AT_ONCE
        output, errors = waits.rest()
        assert "KeyboardInterrupt" in errors
        assert output.splitlines()[:2] == ["threads 0", "timers 0"]
        assert waits.gate is not None
        assert waits.gate[0] == 0
    demand_free(region)


@pytest.mark.parametrize("choice", [None, "off"], ids=["signal", "polling"])
@pytest.mark.parametrize("how", HOWS)
def test_sigterm_ends_a_process_that_waits(region: Region, how: str, choice: str | None):
    with region.read_lock(), patient(region, how, choice=choice) as waits:
        waits.until_it_waits()
        waits.process.send_signal(signal.SIGTERM)
        assert waits.process.wait(10) == -signal.SIGTERM
        with Region.attach(region.name) as other, other.read_lock(timeout=5):
            pass  # its place at the gate went with it
