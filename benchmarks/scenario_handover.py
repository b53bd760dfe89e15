"""handover: how long a lock takes from one process to another that is blocked on it.

Measured: from just before A releases to B's first step inside, by CLOCK_MONOTONIC stamps
in shared memory. Two processes play strictly in turn. Who has the lock waits until the
other has asked for it and had a millisecond to block, then releases, and asks again only
when the other has been inside; so every hand-over counts, and none is an overtaking. Each
process stays on a CPU of its own: otherwise the scheduler often wakes a plain flock on the
CPU of who released it, and the figure depends on what that one does next (9 to 210 µs).
Not measured: throughput, which crowd tells, and holds that nobody waits for.
Peers that poll are as slow as their polling interval, which is left as they ship it.
"""

import contextlib
import itertools
import math
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial

from benchmarks import peers
from benchmarks.bare_waiter import bare_waiter
from benchmarks.harness import Report, interleave, median_ratio, summarise
from benchmarks.loops import LOOPS
from benchmarks.loops import run as run_loop
from benchmarks.outcome import Bars, Bench, Outcome, Table, Target
from benchmarks.peers import AsyncHandle, SyncHandle
from benchmarks.place import board, board_file, lock_file
from benchmarks.processes import PATIENCE, Member, Pipe, members

C = "flock in C"
PYTHON = "fcntl.flock, blocking"
OURS_SYNC = "shm_async, with"
BARE = "thread, eventfd, future"

#: The board: who was inside last, when it released (ns), and for each side whether it
#: has asked and whether it is done.
LAST, RELEASED, ASKED, OVER = 0, 1, 2, 4
POLL, SETTLE = 50e-6, 1e-3  # seconds; as in handover.c

SYNC: dict[str, Callable[[str], SyncHandle]] = {
    PYTHON: peers.flock_sync,
    OURS_SYNC: peers.ours_sync,
    peers.PORTALOCKER: peers.portalocker_sync,
    peers.FASTENERS: peers.fasteners_sync,
}
ASYNC: dict[str, tuple[str, Callable[[str], AsyncHandle]]] = {
    **{f"shm_async, {loop}": (loop, peers.ours) for loop in LOOPS},
    BARE: ("asyncio", bare_waiter),
    f"{BARE}, uvloop": ("uvloop", bare_waiter),
    peers.NAIVE: ("asyncio", peers.naive),
    peers.ASYNC_FILE_LOCK: ("asyncio", peers.async_file_lock),
    peers.ASYNC_RW_LOCK: ("asyncio", peers.async_read_write_lock),
}


def run(bench: Bench, report: Report) -> Outcome:
    rounds, seconds = bench.pick(3, 7), 0.4 if bench.quick else 0.8
    cpus = two_cpus()
    with (
        members(member, [(0, cpus[0]), (1, cpus[1])]) as pair,
        tempfile.TemporaryDirectory() as directory,
    ):
        program = compile_baseline(directory)
        variants: dict[str, Callable[[], list[float]]] = {
            who: partial(play, bench, pair, who, seconds)
            for who in (*SYNC, *ASYNC)
            if program or not who.startswith(BARE)
        }
        if program:
            variants[C] = partial(play_in_c, bench, program, cpus, seconds)
        found = interleave(variants, rounds, report)
    outcome = assess(found, C if program else PYTHON, rounds * seconds)
    if not program:
        outcome.notes.append(f"no C compiler (cc): {PYTHON!r} stands in for {C!r}")
    if cpus[0] == cpus[1]:
        outcome.notes.append("one CPU only: both processes share it")
    return outcome


def assess(found: dict[str, list[list[float]]], base: str, seconds: float) -> Outcome:
    outcome = Outcome("A contended lock: hand-over between two processes")
    table = Table(outcome.title, ("median µs", "p99 µs", f"x {base}", "hand-overs"))
    medians = {who: [_median(samples) for samples in each] for who, each in found.items()}
    ratios = {who: median_ratio(each, medians[base]) for who, each in medians.items()}
    for who in sorted(found, key=lambda who: statistics.median(medians[who])):
        facts = outcome.samples[who] = summarise(itertools.chain.from_iterable(found[who]))
        if facts is None:
            table.add(who, f"none in {seconds:g} s", "", "", 0)
        else:
            table.add(who, facts.median * 1e6, facts.p99 * 1e6, ratios[who], facts.count)
    table.add(peers.AIORWLOCK, "one process only", "", "", "")
    outcome.tables.append(table)
    outcome.targets += [
        Target(f"hand-over, asyncio / {base}", ratios["shm_async, asyncio"], "<=", 2.5, "x"),
        Target(f"hand-over, uvloop / {base}", ratios["shm_async, uvloop"], "<=", 2.0, "x"),
    ]
    shown = [(who, cells) for who, cells in table.rows if not isinstance(cells[0], str)]
    outcome.charts.append(
        Bars(
            "handover",
            outcome.title,
            "µs from release to being inside: median, line up to p99",
            [(who, cells[0]) for who, cells in shown],
            [cells[1] if not isinstance(cells[1], str) else None for _, cells in shown],
            log=True,
        )
    )
    return outcome


def two_cpus() -> tuple[int, int]:
    """Two CPUs that we may use; the same twice where there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[-1]


def _median(samples: list[float]) -> float:
    return statistics.median(samples) if samples else math.inf


def play(bench: Bench, pair: list[Member], who: str, seconds: float) -> list[float]:
    """One round between the two members. Returns seconds for each hand-over."""
    name = bench.place.name()
    with board(name) as cells:
        cells[LAST] = 1  # side 0 begins
        for each in pair:
            each.pipe.send((who, name, seconds))
        return [sample for each in pair for sample in each.receive()]


def compile_baseline(directory: str) -> str | None:
    """Return the path of the C program; None where there is no compiler."""
    compiler, program = shutil.which("cc"), f"{directory}/handover"
    if compiler is None:
        return None
    source = os.path.join(os.path.dirname(__file__), "handover.c")
    subprocess.run([compiler, "-O2", "-o", program, source], check=True)
    return program


def play_in_c(bench: Bench, program: str, cpus: tuple[int, int], seconds: float) -> list[float]:
    name = bench.place.name()
    with board(name) as cells, contextlib.ExitStack() as stack:
        cells[LAST] = 1
        command = [program, lock_file(name), board_file(name)]
        pair = []
        for me, cpu in enumerate(cpus):
            words = [*command, str(cpu), str(me), str(seconds)]
            child = subprocess.Popen(words, stdout=subprocess.PIPE)
            pair.append(stack.enter_context(child))  # reaped at the end,
            stack.callback(child.kill)  # and killed before that
        outputs = [child.communicate(timeout=seconds + PATIENCE)[0] for child in pair]
    return [int(word) / 1e9 for output in outputs for word in output.split()]


# ---- the members -----------------------------------------------------------------


class Rally:
    """One side of the game; see the module's docstring, and handover.c for the same in C."""

    def __init__(self, cells: memoryview, me: int, seconds: float) -> None:
        self.cells = cells
        self.me = me
        self.other = 1 - me
        self.deadline = time.monotonic() + seconds
        self.samples: list[float] = []

    def my_turn(self) -> bool:
        """Wait until the other one has been inside. False: the game is over."""
        cells = self.cells
        while cells[LAST] != self.other and not cells[OVER + self.other]:
            time.sleep(POLL)
        if cells[OVER + self.other] or time.monotonic() >= self.deadline:
            cells[OVER + self.me] = 1
            return False
        cells[ASKED + self.me] = 1
        return True

    def inside(self) -> None:
        """Take the time, and stay until the other one is blocked."""
        now = time.monotonic_ns()
        cells = self.cells
        if cells[RELEASED]:
            self.samples.append((now - cells[RELEASED]) / 1e9)
        cells[ASKED + self.me] = 0
        cells[LAST] = self.me
        while not cells[ASKED + self.other] and not cells[OVER + self.other]:
            time.sleep(POLL)
        time.sleep(SETTLE)
        cells[RELEASED] = time.monotonic_ns()


def member(pipe: Pipe, me: int, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    while True:
        who, name, seconds = pipe.recv()
        with board(name) as cells:
            rally = Rally(cells, me, seconds)
            if who in SYNC:
                play_sync(SYNC[who](name), rally)
            else:
                loop, maker = ASYNC[who]
                run_loop(loop, play_async, maker, name, rally)
        pipe.send(rally.samples)


def play_sync(handle: SyncHandle, rally: Rally) -> None:
    while rally.my_turn():
        with handle.write():
            rally.inside()
    handle.close()


async def play_async(maker: Callable[[str], AsyncHandle], name: str, rally: Rally) -> None:
    handle = maker(name)
    while rally.my_turn():
        async with handle.write():
            rally.inside()
    handle.close()
