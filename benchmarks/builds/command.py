"""``python -m benchmarks builds REV_A [REV_B]``: is the one build faster than the other?

Both builds run in turn in every round, in fresh processes, and the other one begins in the next
round. The ratio B / A of a round does not know how busy the machine was; the medians do.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import machine, report
from benchmarks.builds.checkout import WORKING_TREE, Build, BuildError, prepare
from benchmarks.builds.contests import CONTESTS, Contest
from benchmarks.builds.figures import FEWEST, Figure, Paired, Verdict, judge
from benchmarks.harness import Report
from benchmarks.outcome import Bench
from benchmarks.place import Place

NAMES = [contest.name for contest in CONTESTS]
COLUMNS = ("A", "B", "B / A", "middle half", "95 % sure", "rounds", "B is")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    rev_a: str
    rev_b: str | None
    quick: bool
    only: list[str] | None
    times: float
    out: str


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks builds",
        description="Compare two builds of shm_async, interleaved in one run.",
        epilog="A ratio B / A below 1 means that B has the smaller figure.",
    )
    parser.add_argument("rev_a", metavar="REV_A", help="a commit, branch or tag")
    parser.add_argument("rev_b", metavar="REV_B", nargs="?", help=f"default: {WORKING_TREE}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: some two minutes")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument(
        "--times", type=positive, default=1.0, metavar="N", help="N times the rounds"
    )
    parser.add_argument("--out", default=os.path.join("build", "bench"), metavar="DIR")
    return Options(**vars(parser.parse_args(arguments)))


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0: give the factor of the rounds")
    return value


def main(arguments: Sequence[str], place: Place) -> None:
    options = parse(arguments)
    console = report.make_console()
    os.makedirs(options.out, exist_ok=True)
    console.print(machine.line(machine.facts()))
    try:
        builds = (prepare(options.rev_a), prepare(options.rev_b))
    except BuildError as error:
        sys.exit(f"cannot build: {error}")
    for letter, build in zip("AB", builds, strict=True):
        console.print(f"{letter}: {build.label}, built in {os.path.relpath(build.path)}")
    benches = tuple(Bench(options.quick, place, build.path) for build in builds)
    found = {}
    for contest in CONTESTS:
        if contest.name in (options.only or NAMES):
            with report.progress(console, contest.name) as tell:
                rounds = play_all(contest, (benches[0], benches[1]), options.times, tell)
            found[contest.name] = verdicts(contest, rounds)
            console.print(table_of(contest, found[contest.name]))
    explain(console)
    write_json(options.out, builds, found)


def play_all(
    contest: Contest, benches: tuple[Bench, Bench], times: float, tell: Report
) -> list[dict[str, Paired]]:
    """Play all rounds: A begins in the first, B in the second, A in the third."""
    usual = contest.quick_rounds if benches[0].quick else contest.rounds
    count = max(2, round(usual * times))
    rounds = []
    for number in range(count):
        tell(f"round {number + 1} of {count}", number / count)
        if number % 2:
            swapped = contest.play((benches[1], benches[0]))
            rounds.append({what: each.swapped() for what, each in swapped.items()})
        else:
            rounds.append(contest.play(benches))
        benches[0].place.clear()
    return rounds


def verdicts(
    contest: Contest, rounds: list[dict[str, Paired]]
) -> list[tuple[Figure, Verdict | None]]:
    played = [figure for figure in contest.figures if figure.what in rounds[0]]
    return [(figure, judge([each[figure.what] for each in rounds])) for figure in played]


def table_of(contest: Contest, found: list[tuple[Figure, Verdict | None]]) -> Table:
    shown = Table(title=contest.name, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    shown.add_column("", no_wrap=True)
    for column in COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    for figure, verdict in found:
        shown.add_row(f"{figure.what}, {figure.unit}", *cells(figure, verdict))
    return shown


def cells(figure: Figure, verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["none", *[""] * (len(COLUMNS) - 1)]
    return [
        report.number(verdict.a),
        report.number(verdict.b),
        f"{verdict.ratio:.3f}",
        f"{verdict.quarter:.3f}-{verdict.three_quarters:.3f}",
        f"{verdict.low:.3f}-{verdict.high:.3f}" if verdict.rounds >= FEWEST else "-",
        str(verdict.rounds),
        verdict.says(figure.better),
    ]


def explain(console: Console) -> None:
    for line in (
        "A and B are the medians of all rounds. B / A is the median of the ratios of each round.",
        "Half of the rounds have a ratio in the middle half; it shows how noisy the machine is.",
        "95 % sure: with so many rounds the true ratio lies there 19 times out of 20. Of twenty",
        "figures of two equal builds one will look different: ask for more rounds (--times).",
    ):
        console.print(f"  {line}", style="dim")


def write_json(
    directory: str,
    builds: tuple[Build, Build],
    found: dict[str, list[tuple[Figure, Verdict | None]]],
) -> None:
    facts = {
        "machine": machine.facts(),
        "builds": [asdict(build) for build in builds],
        "finished": time.time(),
        "contests": {
            name: [
                {**asdict(figure), "verdict": verdict and asdict(verdict)}
                for figure, verdict in each
            ]
            for name, each in found.items()
        },
    }
    with open(os.path.join(directory, "builds.json"), "w") as file:
        json.dump(facts, file, indent=1)
        file.write("\n")
