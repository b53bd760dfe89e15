"""The scenarios as contests of two builds: in each round both run, one after the other."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from benchmarks import scenario_flood, scenario_handover
from benchmarks.builds import fleets, pair, ticker
from benchmarks.builds.figures import Figure, Paired
from benchmarks.harness import quantile
from benchmarks.outcome import Bench
from benchmarks.processes import members

Play = Callable[[tuple[Bench, Bench]], dict[str, Paired]]


class Measure(Protocol):
    """Return each figure of the bench's build, from fresh processes."""

    def __call__(self, bench: Bench, /) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Contest:
    """One scenario. `play` is a round: the first bench's build begins.

    A quick run may leave figures out.
    """

    name: str
    figures: tuple[Figure, ...]
    rounds: int
    quick_rounds: int
    play: Play


def in_turn(measure: Measure) -> Play:
    def play(benches: tuple[Bench, Bench]) -> dict[str, Paired]:
        first, second = map(measure, benches)
        return {what: Paired(first[what], second[what]) for what in first}

    return play


# ---- flood ---------------------------------------------------------------------------

FLOOD_SECONDS, FLOOD_QUICK = 1.5, 0.7


def flood(bench: Bench) -> dict[str, float]:
    seconds = FLOOD_QUICK if bench.quick else FLOOD_SECONDS
    waits, _, together = scenario_flood.flood(bench, scenario_flood.OURS, seconds)
    found = in_milliseconds("writer's wait", waits)
    found["readers' holds"] = together
    return found


FLOOD_FIGURES = (
    Figure("writer's wait, p50", "ms", "less"),
    Figure("writer's wait, p99", "ms", "less"),
    Figure("readers' holds", "a second", "more"),
)


# ---- handover ------------------------------------------------------------------------

HANDOVERS = ("shm_async, asyncio", "shm_async, uvloop", "shm_async, with")
HANDOVER_SECONDS, HANDOVER_QUICK = 0.4, 0.2


def handover(bench: Bench) -> dict[str, float]:
    cpus = scenario_handover.two_cpus()
    both = [(0, cpus[0]), (1, cpus[1])]
    seconds = HANDOVER_QUICK if bench.quick else HANDOVER_SECONDS
    with members(scenario_handover.member, both, bench.build) as pair_:
        for who in HANDOVERS:  # the first time a member imports what it needs
            scenario_handover.play(bench, pair_, who, 0.05)
        played = ((who, scenario_handover.play(bench, pair_, who, seconds)) for who in HANDOVERS)
        return {
            handover_name(who): statistics.median(samples) * 1e6 if samples else float("nan")
            for who, samples in played
        }


def handover_name(who: str) -> str:
    return f"{who.removeprefix('shm_async, ')}, p50"


HANDOVER_FIGURES = tuple(Figure(handover_name(who), "µs", "less") for who in HANDOVERS)


# ---- all -----------------------------------------------------------------------------


def in_milliseconds(what: str, waits: Iterable[float]) -> dict[str, float]:
    ordered = sorted(waits)
    if not ordered:
        return {f"{what}, p50": float("nan"), f"{what}, p99": float("nan")}
    return {
        f"{what}, p50": statistics.median(ordered) * 1e3,
        f"{what}, p99": quantile(ordered, 0.99) * 1e3,
    }


CONTESTS = (
    Contest("pair", pair.FIGURES, 40, 10, pair.play),
    Contest("crowd", fleets.figures(fleets.CROWDS), 15, 6, partial(fleets.play, fleets.CROWDS)),
    Contest("flood", FLOOD_FIGURES, 20, 6, in_turn(flood)),
    Contest("handover", HANDOVER_FIGURES, 15, 6, in_turn(handover)),
    Contest("ticker", ticker.FIGURES, 10, 6, in_turn(ticker.measure)),
    Contest(
        "counter", fleets.figures(fleets.COUNTERS), 10, 6, partial(fleets.play, fleets.COUNTERS)
    ),
)
