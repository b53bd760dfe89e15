"""Without a signal to interrupt them waits poll: at the gate as elsewhere."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from patient import HOWS
from patients import Patient, demand_free, environment, patient
from rivals import Rival

from shm_async import Region, WouldBlockError

pytestmark = pytest.mark.long


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
                with ThreadPoolExecutor(1) as pool:  # this thread reads, and may read again
                    pool.submit(other.read_lock().acquire_nowait).result()


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


LOOKS = 0.02  # seconds between two looks of those who queue at the gate


CHANCE = 0.04  # seconds that a free lock is left to the one who has the gate


EVERY_WAIT = [
    *((how, choice, "read") for how in HOWS for choice in (None, "off")),
    *(("with", choice, "write") for choice in (None, "off")),
]


def passes(gatekeeper: Rival, waits: Patient, *steps: tuple[float, str]) -> bool:
    """Whether it goes past the gatekeeper, who acts as slowly as the steps say (s, what).

    Only a step that took no longer than the chance proves something: busy machines are late. So
    there are several rounds; {ticket} in a step is a number that the gate has not had before.
    """
    for ticket in range(2, 52):
        in_time = True
        began = time.monotonic()  # before what it does, as nobody knows when within that it is done
        gatekeeper.do("unlock")
        for seconds, what in steps:
            time.sleep(seconds)
            next_began = time.monotonic()
            gatekeeper.do(what.format(ticket=ticket))
            in_time &= time.monotonic() - began < CHANCE
            began = next_began
        passed = waits.says_something_within(0.1)
        if in_time or passed:
            return passed and in_time
    raise AssertionError("this machine is never in time")


@pytest.mark.parametrize(("how", "choice", "kind"), EVERY_WAIT)
def test_one_who_is_being_woken_at_the_gate_is_not_passed(
    raw: Region, gatekeeper: Rival, how: str, choice: str | None, kind: str
):
    """The lock is free, and the one whose turn it is has not run yet, for more than a look."""
    gatekeeper.do("exclusive")
    with patient(raw, how, "-", kind, choice=choice) as waits:
        time.sleep(2 * LOOKS)  # it queues
        assert not passes(gatekeeper, waits, (1.25 * LOOKS, "exclusive"))
        gatekeeper.kill()
        assert waits.finish()[0] == "granted"


@pytest.mark.parametrize(("how", "choice", "kind"), EVERY_WAIT)
def test_the_next_one_at_the_gate_has_a_chance_of_its_own(
    raw: Region, gatekeeper: Rival, how: str, choice: str | None, kind: str
):
    gatekeeper.do("exclusive")
    with patient(raw, how, "-", kind, choice=choice) as waits:
        time.sleep(2 * LOOKS)
        nearly = 0.6 * CHANCE  # twice that is more than one chance
        assert not passes(gatekeeper, waits, (nearly, "gate {ticket}"), (nearly, "exclusive"))
        gatekeeper.kill()
        assert waits.finish()[0] == "granted"


@pytest.mark.parametrize("choice", [None, "off"])
def test_a_timeout_shorter_than_the_patience_is_enough_to_look(
    raw: Region, gatekeeper: Rival, choice: str | None
):
    with patient(raw, "often", 0.015, choice=choice) as waits:
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
