"""Counting under one lock in two builds: rates, waits and CPU time.

Both builds' processes are there at once, and take turns: one fleet counts for a fifth of a
second while the other rests, then the other, so both meet the same noise. Every round begins with
fresh processes.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.builds.figures import Figure, Paired
from benchmarks.counter_variants import OURS, OURS_SYNC
from benchmarks.fleet import LEAD, Fleet, fleet
from benchmarks.harness import quantile
from benchmarks.outcome import Bench
from benchmarks.scenario_counter import Spell, spell

SECONDS, TURNS, QUICK_TURNS = 0.2, 5, 3

#: From this hold on CPU time tells whether waiting costs any; below it follows the rate.
LONG = 200e-6

Value = Callable[[Spell], float]


@dataclass(frozen=True, slots=True)
class Cell:
    """A fleet: so many processes with so many workers each, and what they do in a hold."""

    who: str
    processes: int
    workers: int
    hold: float  # seconds
    quick: bool = False  # a quick run has it too

    @property
    def what(self) -> str:
        kind = self.who.removeprefix("shm_async, ")
        return f"{kind} {self.processes} x {self.workers}, {self.hold * 1e6:g} µs"

    def values(self) -> list[tuple[Figure, Value]]:
        """What is measured of it."""
        found: list[tuple[Figure, Value]] = [
            (Figure(f"{self.what}: rate", "/s", "more"), lambda each: each.rate)
        ]
        if self.processes > 1:
            share = Figure(f"{self.what}: least share", "%", "more")
            found.append((share, lambda each: min(each.shares) * 100))
        if self.processes * self.workers * self.hold < LEAD:
            # those whose turn comes later than that are not seen at all
            found.append((Figure(f"{self.what}: wait p99", "µs", "less"), wait_p99))
            longest = Figure(f"{self.what}: longest wait", "µs", "less")
            found.append((longest, lambda each: max(each.waits, default=float("nan")) * 1e6))
        if self.hold >= LONG:
            cpu = Figure(f"{self.what}: CPU", "µs a hold", "less")
            found.append((cpu, lambda each: each.cpu * 1e6))
        return found


def wait_p99(one: Spell) -> float:
    return quantile(sorted(one.waits), 0.99) * 1e6 if one.waits else float("nan")


CROWDS = (Cell(OURS, 2, 10, 20e-6, quick=True), Cell(OURS, 2, 1000, 20e-6, quick=True))

COUNTERS = (
    Cell(OURS, 2, 1, 0.0, quick=True),
    Cell(OURS, 4, 1, 0.0, quick=True),
    Cell(OURS, 4, 1, 2e-6),
    Cell(OURS, 2, 1, 20e-6),
    Cell(OURS, 4, 1, 20e-6),
    Cell(OURS, 4, 1, 40e-6),
    Cell(OURS, 2, 100, 0.0),
    Cell(OURS, 2, 10, 200e-6),
    Cell(OURS, 2, 10, 2000e-6),
    Cell(OURS, 2, 1000, 200e-6),
    Cell(OURS_SYNC, 2, 1, 0.0, quick=True),
    Cell(OURS_SYNC, 4, 1, 0.0),
    Cell(OURS_SYNC, 2, 10, 200e-6),
)


def figures(cells: Sequence[Cell]) -> tuple[Figure, ...]:
    return tuple(figure for cell in cells for figure, _ in cell.values())


def play(cells: Sequence[Cell], benches: tuple[Bench, Bench]) -> dict[str, Paired]:
    """One round; the first bench's fleet begins."""
    found: dict[str, Paired] = {}
    for cell in cells:
        if cell.quick or not benches[0].quick:
            found |= play_one(cell, benches)
    return found


def play_one(cell: Cell, benches: tuple[Bench, Bench]) -> dict[str, Paired]:
    shape = (cell.processes, cell.workers)
    first, second = benches
    with (
        fleet(cell.who, first.place.name(), *shape, build=first.build) as one,
        fleet(cell.who, second.place.name(), *shape, build=second.build) as other,
    ):
        ones, others = take_turns(cell, one, other, first.pick(QUICK_TURNS, TURNS))
    return {
        figure.what: compare([value(each) for each in ones], [value(each) for each in others])
        for figure, value in cell.values()
    }


def take_turns(cell: Cell, one: Fleet, other: Fleet, turns: int) -> tuple[list[Spell], list[Spell]]:
    ones: list[Spell] = []
    others: list[Spell] = []
    for number in range(turns):
        for counting, spells in ((one, ones), (other, others))[:: -1 if number % 2 else 1]:
            spells.append(spell(counting, cell.who, cell.hold, SECONDS))
            if spells[-1].lost:
                raise AssertionError(f"{cell.what}: {spells[-1].lost} increments were lost")
    return ones, others


def compare(ones: Sequence[float], others: Sequence[float]) -> Paired:
    ratios = [b / a for a, b in zip(ones, others, strict=True) if a]
    fine = statistics.median(ratios) if ratios else float("nan")
    return Paired(statistics.median(ones), statistics.median(others), fine)
