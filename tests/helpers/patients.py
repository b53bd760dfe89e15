"""Processes that wait for the lock of a region: patient.py, started and watched."""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator

import patient as patient_program
from programs import path_of_tests
from waits import wait_until

from shm_async import Region
from shm_async._lock import signals

PATIENT = patient_program.__file__


def environment(choice: str | None) -> dict[str, str]:
    """For a program that chooses that signal, and finds the modules beside this one."""
    environment = {key: value for key, value in os.environ.items() if key != signals.VARIABLE}
    environment["PYTHONPATH"] = path_of_tests()
    return environment if choice is None else {**environment, signals.VARIABLE: choice}


class Patient:
    """A process that waits for the lock of a region."""

    def __init__(self, region: Region, how: str, *arguments: object, choice: str | None = "off"):
        self.gate = region._table.usable().gate
        self.process = subprocess.Popen(
            [sys.executable, PATIENT, region.name, how, *map(str, arguments)],
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

    def says_something_within(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

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
