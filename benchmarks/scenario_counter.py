"""counter: increments a second of one counter that several processes share.

Each worker, a coroutine or a thread, acquires, adds one, stays for the time of a hold, and
releases; and again at once, or, where the name says "sleep(0) after each", when its
event loop has seen to the others. Measured over spans that all processes share: increments
a second of all together, each process's share, how long an acquire took, and the CPU time
for a million, that of the servers included, which run on the same CPUs. Redis INCR has no
lock and no holds: its server adds. Redis and PostgreSQL are asked over a Unix socket and
store nothing. Whether an increment was lost is checked after each span.
"""

import multiprocessing
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import servers
from benchmarks.counter_variants import OURS, OURS_SYNC, VARIANTS
from benchmarks.fleet import Facts, Fleet, Order, fleet, sleep_until
from benchmarks.harness import Report, interleave, quantile, summarise
from benchmarks.outcome import Bars, Bench, Cell, Outcome, Table, Target
from benchmarks.servers import Server

HOLDS = (0.0, 2e-6, 20e-6, 200e-6)

#: Processes, and workers in each. Ours run in all shapes, the others where four workers do.
Shape = tuple[int, int]
ALONE, TWO, FOUR, CROWDED = (1, 1), (2, 1), (4, 1), (4, 25)

COLUMNS = (
    "hold µs",
    "increments/s",
    "shares %",
    "wait p50 µs",
    "wait p99 µs",
    "CPU s for a million",
)


@dataclass(frozen=True, slots=True)
class Spell:
    """One span of a fleet. `cpu` is that of all its processes and of the server."""

    rate: float  # increments a second
    shares: tuple[float, ...]
    waits: Sequence[float]
    cpu: float  # seconds for an increment
    lost: int


#: The spells of one round, by hold.
Round = dict[float, Spell]
#: What each variant that can run is lent; the reason where it cannot.
Lent = Mapping[str, Server | str | None]


def run(bench: Bench, report: Report) -> Outcome:
    holds = (0.0, 20e-6) if bench.quick else HOLDS
    seconds = 0.3 if bench.quick else 0.5
    with all_servers() as found_servers:
        reasons = {
            who: server
            for who, variant in VARIANTS.items()
            if isinstance(server := found_servers.get(variant.need), str)
        }
        variants = {
            (who, shape): partial(play, bench, who, shape, holds, seconds, found_servers)
            for who in VARIANTS
            for shape in shapes(who, bench.quick)
            if who not in reasons
        }
        named = {f"{who}, {p} x {w}": play_ for (who, (p, w)), play_ in variants.items()}
        rounds = interleave(named, bench.pick(1, 2), report)
    found = {key: rounds[name] for key, name in zip(variants, named, strict=True)}
    return assess(found, reasons)


def shapes(who: str, quick: bool) -> tuple[Shape, ...]:
    if who.startswith("shm_async"):
        return (ALONE, FOUR) if quick else (ALONE, TWO, FOUR, CROWDED)
    return (FOUR,) if quick else (FOUR, CROWDED)


@contextmanager
def all_servers() -> Iterator[Lent]:
    with ExitStack() as stack:
        yield {
            "redis": stack.enter_context(servers.redis()),
            "postgresql": stack.enter_context(servers.postgresql()),
        }


# ---- one round -------------------------------------------------------------------------


def play(
    bench: Bench,
    who: str,
    shape: Shape,
    holds: Sequence[float],
    seconds: float,
    found_servers: Lent,
) -> Round:
    variant = VARIANTS[who]
    server = found_servers.get(variant.need)
    lent: Any = server.address if isinstance(server, Server) else None
    if variant.need == "lock":
        lent = multiprocessing.get_context("spawn").Lock()
    with fleet(who, bench.place.name(), *shape, lent=lent, build=bench.build) as counting:
        if not variant.excludes:
            holds = holds[:1]
        return {hold: spell(counting, who, hold, seconds, server) for hold in holds}


def spell(counting: Fleet, who: str, hold: float, seconds: float, server: object = None) -> Spell:
    order = counting.begin(hold, seconds)
    servers_cpu = cpu_during(order, server) if isinstance(server, Server) else 0.0
    facts = counting.facts()
    return summed_up(facts, servers_cpu, counting.lost(facts) if VARIANTS[who].excludes else 0)


def cpu_during(order: Order, server: Server) -> float:
    """Wait until the span is over, and return what the server used in it."""
    sleep_until(order.start)
    before = server.cpu_seconds()
    sleep_until(order.start + order.seconds)
    return server.cpu_seconds() - before


def summed_up(facts: Sequence[Facts], servers_cpu: float, lost: int) -> Spell:
    holds = sum(each.holds for each in facts)
    cpu = servers_cpu + sum(each.cpu for each in facts)
    return Spell(
        rate=sum(each.holds / each.seconds for each in facts),
        shares=tuple(sorted(each.holds / holds if holds else 0.0 for each in facts)),
        waits=[wait for each in facts for wait in each.waits],
        cpu=cpu / holds if holds else float("inf"),
        lost=lost,
    )


# ---- all rounds ------------------------------------------------------------------------

Found = Mapping[tuple[str, Shape], Sequence[Round]]


def assess(found: Found, reasons: Mapping[str, str]) -> Outcome:
    outcome = Outcome("A counter that processes share")
    for shape in sorted({shape for _, shape in found}):
        table = Table(f"{shape[0]} x {shape[1]}: processes x workers in each of them", COLUMNS)
        outcome.tables.append(table)
        for who in VARIANTS:
            if (who, shape) in found:
                add_rows(outcome, table, who, shape, found[who, shape])
            elif who in reasons and shape in (FOUR, CROWDED):
                table.add(who, "", reasons[who], *[""] * (len(COLUMNS) - 2))
    outcome.targets += targets(found)
    outcome.charts.append(four_workers(found, reasons))
    outcome.notes.append(f"{os.cpu_count()} CPUs; shares are those of the processes, least first")
    return outcome


def add_rows(
    outcome: Outcome, table: Table, who: str, shape: Shape, rounds: Sequence[Round]
) -> None:
    for hold in rounds[0]:
        spells = [each[hold] for each in rounds]
        waits = sorted(wait for each in spells for wait in each.waits)
        name = f"{who}, {shape[0]} x {shape[1]}, {hold * 1e6:g} µs: wait"
        outcome.samples[name] = summarise(waits)
        table.add(
            who,
            hold * 1e6,
            statistics.median(each.rate for each in spells),
            shares(spells),
            quantile(waits, 0.5) * 1e6 if waits else "none",
            quantile(waits, 0.99) * 1e6 if waits else "none",
            statistics.median(each.cpu for each in spells) * 1e6,
        )


def shares(spells: Sequence[Spell]) -> str:
    columns = zip(*(each.shares for each in spells), strict=True)
    return " ".join(f"{statistics.median(each) * 100:.0f}" for each in columns)


def rate(found: Found, who: str, shape: Shape, hold: float = 0.0) -> float:
    return statistics.median(each[hold].rate for each in found[who, shape])


def targets(found: Found) -> list[Target]:
    lost = sum(
        abs(each.lost) for rounds in found.values() for one in rounds for each in one.values()
    )
    wanted = [Target("increments lost, all together", lost, "<=", 0)]
    for who in (OURS, OURS_SYNC):
        alone = rate(found, who, ALONE)
        for shape in (TWO, FOUR):
            if (who, shape) in found:
                what = f"{who}: {shape[0]} x {shape[1]}, empty hold, / one alone"
                together = rate(found, who, shape) / alone
                wanted.append(Target(what, together, ">=", 1.0 if shape == TWO else 0.5))
    return wanted


def four_workers(found: Found, reasons: Mapping[str, str]) -> Bars:
    bars: list[tuple[str, Cell]] = [
        (who, rate(found, who, FOUR)) for who in VARIANTS if (who, FOUR) in found
    ]
    bars.sort(key=lambda each: -float(each[1]))
    bars += [(who, reason) for who, reason in reasons.items()]
    return Bars(
        "counter",
        "How many increments a second do my four workers get?",
        "increments a second, all four together",
        bars,
        log=True,
        note="4 processes with one coroutine or thread each, nothing else in the hold",
    )
