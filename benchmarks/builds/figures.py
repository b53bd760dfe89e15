"""Two builds' figures, round by round, and how sure one can be of their ratio."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness import quantile

#: With fewer rounds than these nothing can be said with 95 %.
FEWEST = 6

Better = Literal["less", "more"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that a contest measures; `what` names it in the table."""

    what: str
    unit: str
    better: Better


@dataclass(frozen=True, slots=True)
class Paired:
    """The figure of both builds in one round. `fine` is B / A where the round knows it better."""

    a: float
    b: float
    fine: float | None = None

    @property
    def ratio(self) -> float:
        """B / A; not a number where there is none."""
        if self.fine is not None:
            return self.fine
        return self.b / self.a if self.a else math.nan

    def swapped(self) -> "Paired":
        return Paired(self.b, self.a, None if self.fine is None else 1 / self.fine)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all rounds say together. Invariant: low <= ratio <= high."""

    a: float
    b: float
    ratio: float
    quarter: float  # a quarter of the rounds has a smaller ratio,
    three_quarters: float  # and a quarter a greater one
    low: float  # the true ratio lies between low and high, 19 times out of 20
    high: float
    rounds: int

    def says(self, better: Better) -> str:
        """Whether B is better or worse, in words."""
        if self.rounds < FEWEST:
            return "too few rounds"
        if self.low <= 1 <= self.high:
            return "no difference"
        return "better" if (self.ratio < 1) == (better == "less") else "worse"


def judge(rounds: Sequence[Paired]) -> Verdict | None:
    """Return the verdict; None if no round gave a ratio."""
    usable = [each for each in rounds if math.isfinite(each.ratio)]
    if not usable:
        return None
    ratios = sorted(each.ratio for each in usable)
    low, high = interval_of_median(ratios)
    return Verdict(
        a=statistics.median(each.a for each in usable),
        b=statistics.median(each.b for each in usable),
        ratio=statistics.median(ratios),
        quarter=quantile(ratios, 0.25),
        three_quarters=quantile(ratios, 0.75),
        low=low,
        high=high,
        rounds=len(ratios),
    )


def interval_of_median(ordered: Sequence[float]) -> tuple[float, float]:
    """Return where the true median lies with 95 %: an interval between two of the samples.

    Each sample is as likely below the true median as above it, so a binomial distribution
    tells how many are; no assumption about the shape of the noise is needed. With fewer
    than six samples no two of them are far enough apart: the interval is unbounded.
    """
    count = len(ordered)
    below, tail = 0, 0.5**count
    while tail <= 0.025:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    return (ordered[below - 1], ordered[count - below]) if below else (-math.inf, math.inf)
