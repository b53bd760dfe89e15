"""Rounds, interleaving and statistics: what all scenarios share.

Machines are noisy and share their cores, so no variant is measured on its own: every
round runs each of them once, in a new order, and what counts is the ratio of two
variants in the same round.
"""

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

#: Called with what is going on and how much of the scenario is done, from 0 to 1.
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a list of samples."""

    count: int
    lowest: float
    median: float
    mean: float
    p90: float
    p99: float
    highest: float


def summarise(values: Iterable[float]) -> Summary | None:
    """Return the summary of the samples; None if there are none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Summary(
        count=len(ordered),
        lowest=ordered[0],
        median=statistics.median(ordered),
        mean=statistics.fmean(ordered),
        p90=quantile(ordered, 0.90),
        p99=quantile(ordered, 0.99),
        highest=ordered[-1],
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The sample that `share` of the sorted samples do not exceed (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def interleave(
    variants: Mapping[str, Callable[[], T]], rounds: int, report: Report
) -> dict[str, list[T]]:
    """Run every variant once per round, in a random order, and return their results."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    order = list(variants)
    shuffle = random.Random(1).shuffle
    for number in range(rounds):
        shuffle(order)
        for place, name in enumerate(order):
            report(name, (number + place / len(order)) / rounds)
            results[name].append(variants[name]())
    return results


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """The median over the rounds of one variant divided by another."""
    return statistics.median(a / b for a, b in zip(values, base, strict=True) if b)
