"""The signal that interrupts a blocked lock: chosen or off, and no other one is touched."""

import re
import signal
import subprocess
import sys
import time

import pytest
from patient import HOWS
from patients import Patient, demand_free, environment, patient

from shm_async import Region
from shm_async._lock import signals
from shm_async._native import ANY_SIGNAL, NO_SIGNAL

#: How fast Ctrl-C must come through: a wait looks around every 0.1 s at the latest.
AT_ONCE = 0.5

#: The machine may be busy with something else, which makes it slower, but never faster.
TRIES = 5


# ---- what the variable may say -----------------------------------------------------------------


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


def test_a_bad_value_is_heard_of_when_region_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", "from shm_async import Region"],
        env=environment("SIGKILL"), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ValueError: SHM_ASYNC_SIGNAL='SIGKILL' is no")


# ---- a chosen signal ---------------------------------------------------------------------------


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


# ---- everybody else's signals ------------------------------------------------------------------


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


# ---- Ctrl-C and SIGTERM ------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [None, "off"], ids=["signal", "polling"])
@pytest.mark.parametrize("how", HOWS)
def test_ctrl_c_ends_a_wait_at_once_and_leaves_nothing(
    region: Region, how: str, choice: str | None
):
    seconds: list[float] = []
    while not seconds or (min(seconds) >= AT_ONCE and len(seconds) < TRIES):
        with region.write_lock(), patient(region, how, choice=choice) as waits:
            seconds.append(seconds_until_ctrl_c_ends(waits))
        demand_free(region)
    assert min(seconds) < AT_ONCE, seconds


def seconds_until_ctrl_c_ends(waits: Patient) -> float:
    """End the wait by Ctrl-C, and demand that it leaves nothing."""
    waits.until_it_waits()
    start = time.monotonic()
    waits.process.send_signal(signal.SIGINT)
    assert waits.process.stdout is not None
    assert waits.process.stdout.readline() == "over\n"
    seconds = time.monotonic() - start
    output, errors = waits.rest()
    assert "KeyboardInterrupt" in errors
    assert output.splitlines()[:2] == ["threads 0", "timers 0"]
    assert waits.gate is not None
    assert waits.gate[0] == 0
    return seconds


@pytest.mark.parametrize("choice", [None, "off"], ids=["signal", "polling"])
@pytest.mark.parametrize("how", HOWS)
def test_sigterm_ends_a_process_that_waits(region: Region, how: str, choice: str | None):
    with region.read_lock(), patient(region, how, choice=choice) as waits:
        waits.until_it_waits()
        waits.process.send_signal(signal.SIGTERM)
        assert waits.process.wait(10) == -signal.SIGTERM
        with Region.attach(region.name) as other, other.read_lock(timeout=5):
            pass  # its place at the gate went with it
