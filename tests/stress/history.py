"""Histories of a lock: who was inside and when, and the proof that nobody was who must not.

Each process writes down what it does with a `Recorder`. A record is one small write(2),
so a SIGKILL loses none that was made, and a fork inherits none. `load` reads them
all back and `check`, in verdict.py, looks for violations.

An interval is measured inside the hold: its start is read from the clock after the lock was
granted, its end before it is let go. So it lies within the true one, and two intervals
that overlap prove that two holds did: there are no false alarms. A process that was
killed inside never let go, so its hold lasted until the kill at least, and that is
where its interval ends; the data that it left may or may not have its last store.

The data are two words, the near and the far one. Every write adds one to the near word when
it comes in and copies it to the far word when it goes. So each value between zero and the
last was written by exactly one holder, whoever is inside sees two equal words, and only a
killed writer may leave a value that nobody acknowledges, or two words that differ. Who
sees those has been told of the death, unless it was of a program that leaves no mark.
"""

import itertools
import os
import struct
import time
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import TypeAlias

RECORD = struct.Struct("=QBBHIQQ")  # 32 bytes divide a page: no write is ever cut in two
#: Actors with the same number above this stand in one queue that is first come, first served;
#: queue 0 promises nothing.
QUEUE_SHIFT = 8


class Event(IntEnum):
    STARTED = 1  # this process: value is its pid, other its role
    WANTED = 2
    ACQUIRED = 3  # value and other: the words as found
    RELEASED = 4  # the words as left; written just before letting go
    CANCELLED = 5  # the wait ended and nothing is held
    KILLING = 6  # value is the process that is about to be killed
    DEAD = 7  # value is the process that was found dead
    STOPPED = 8  # value is the process that was stopped at the gate
    CALM = 9  # from now on nobody is killed or stopped
    REFUSED = 10  # a wait for oneself was refused
    CONTINUED = 11  # value is the process that was stopped at the gate and goes on


class Kind(IntFlag):
    READ = 0
    WRITE = 1
    APART = 2  # its place in the queue is not known: nested reads pass it, and some come late
    CONVERTED = 4  # goes on from the hold that this actor released last
    KEPT = 8  # ... without having let go in between
    FOREIGN = 16  # of a program that knows nothing of the gate, and leaves no mark when it writes
    TOLD = 32  # of a death before, or does not want to be


class Recorder:
    """Writes one process's history. Threads and tasks share it; a forked child makes its own."""

    def __init__(self, directory: str, process: int, role: int = 0) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.fd = os.open(f"{directory}/{process}.history", flags, 0o600)
        self.process = process
        self.silent = False
        self.numbers = itertools.count(1)
        self.note(Event.STARTED, value=os.getpid(), other=role)

    def note(
        self,
        event: Event,
        kind: int = 0,
        actor: int = 0,
        number: int = 0,
        value: int = 0,
        other: int = 0,
    ) -> None:
        """Write an event down, with the time before the writing."""
        now = time.monotonic_ns()
        if not self.silent:
            os.write(self.fd, RECORD.pack(now, event, kind, actor, number, value, other))

    def silence(self) -> None:
        """In a forked child: what is the parent's is not ours to write."""
        self.silent = True
        os.close(self.fd)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(slots=True)
class Hold:
    """One wish for the lock and what came of it. Times are ns, None where it did not happen."""

    process: int
    actor: int
    number: int
    kind: int
    wanted: int
    acquired: int | None = None
    released: int | None = None
    cancelled: int | None = None
    killed: int | None = None
    seen: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)
    before: "Hold | None" = None  # the one that it was converted from

    @property
    def writes(self) -> bool:
        return bool(self.kind & Kind.WRITE)

    @property
    def end(self) -> int:
        """Until when it was held for certain; for those that were acquired."""
        if self.released is not None:
            return self.released
        return max(self.acquired or 0, self.killed or 0)

    @property
    def answered(self) -> int | None:
        """When the wait ended."""
        return self.acquired if self.acquired is not None else self.cancelled

    @property
    def value(self) -> int:
        """What a writer wrote, or was about to write."""
        return self.seen[0] + 1

    def __str__(self) -> str:
        what = "write" if self.writes else "read"
        how = " (killed)" if self.killed is not None and self.released is None else ""
        return (
            f"{what} {self.number} of actor {self.actor} in process {self.process}{how}, "
            f"wanted {self.wanted}, acquired {self.acquired}, until {self.released or self.killed},"
            f" saw {self.seen}, left {self.left}"
        )


#: Which process slept, from when, until when.
Nap: TypeAlias = tuple[int, int, int]


@dataclass
class Process:
    """One process's history."""

    number: int
    pid: int = 0
    role: int = 0
    started: int = 0
    killed: int | None = None
    holds: list[Hold] = field(default_factory=list)  # in the order of wanting
    calm: int | None = None  # since when it leaves the others alone
    naps: list[Nap] = field(default_factory=list)  # of others, at the gate, that it caused
    refused: int = 0


def load(directory: str | Path) -> list[Process]:
    """Read what the recorders of all processes wrote into `directory`."""
    processes = [read(path) for path in sorted(Path(directory).glob("*.history"))]
    kills = {victim: when for process, found in processes for victim, when in found.items()}
    for process, _ in processes:
        process.killed = kills.get(process.number)
        for hold in process.holds:
            hold.killed = process.killed
    return [process for process, _ in processes]


def read(path: Path) -> tuple[Process, dict[int, int]]:
    """One process's history, and whom it killed when."""
    process = Process(int(path.stem))
    kills: dict[int, int] = {}
    holds: dict[int, Hold] = {}
    last: dict[int, Hold] = {}  # released, by actor
    data = path.read_bytes()
    data = data[: len(data) // RECORD.size * RECORD.size]
    for when, event, kind, actor, number, value, other in RECORD.iter_unpack(data):
        match event:
            case Event.WANTED:
                hold = holds[number] = Hold(process.number, actor, number, kind, when)
                hold.before = last.get(actor) if kind & Kind.CONVERTED else None
                process.holds.append(hold)
            case Event.ACQUIRED:
                hold = holds[number]
                hold.acquired, hold.seen, hold.kind = when, (value, other), kind
            case Event.RELEASED:
                hold = last[actor] = holds.pop(number)
                hold.released, hold.left = when, (value, other)
            case Event.CANCELLED:
                holds.pop(number).cancelled = when
            case Event.STARTED:
                process.pid, process.role, process.started = value, other, when
            case Event.KILLING:
                kills[value] = when
            case Event.STOPPED:
                process.naps.append((value, when, when))
            case Event.CONTINUED:
                process.naps[-1] = (value, process.naps[-1][1], when)
            case Event.CALM:
                process.calm = when
            case Event.REFUSED:
                process.refused += 1
    return process, kills
