"""The command line of the suite."""

import argparse
import importlib
import os
import signal
import sys
import time
import traceback
from types import ModuleType
from typing import NoReturn

from rich.console import Console

from benchmarks import machine, report
from benchmarks.outcome import Bench, Target
from benchmarks.place import Place

SCENARIOS = (
    "pair",
    "handover",
    "turns",
    "crowd",
    "counter",
    "flood",
    "cancel",
    "idle",
    "open",
    "import",
    "copy",
    "snapshot",
    "watch",
    "metrics",
    "postgresql",
)
DEFAULT_OUT = os.path.join("build", "bench")


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    place = Place()
    try:
        if sys.argv[1:2] == ["builds"]:
            from benchmarks.builds import command as builds  # the scenarios need none of it

            builds.main(sys.argv[2:], place)
        else:
            compare_with_peers(place)
    except KeyboardInterrupt:
        print("interrupted: everything is cleaned up")
        sys.exit(130)
    finally:
        place.clear()


def compare_with_peers(place: Place) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What shm_async costs, and what its peers do, interleaved in one run.",
        epilog="`python -m benchmarks builds --help`: one build of shm_async against another.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under three minutes")
    only = parser.add_argument("--only", action="append", metavar="SCENARIO", choices=SCENARIOS)
    only.help = "run this one; may be repeated"
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    out = parser.add_argument("--out", default=DEFAULT_OUT, metavar="DIR")
    out.help = "where JSON and plots go (%(default)s)"
    options = parser.parse_args()
    console = report.make_console()
    if options.list:
        for name in SCENARIOS:
            console.print((load(name).__doc__ or name).partition("\n")[0])
        return
    os.makedirs(options.out, exist_ok=True)
    failed = run_all(console, options.only or SCENARIOS, Bench(options.quick, place), options.out)
    sys.exit(1 if failed else 0)


def end(_signal: int, _frame: object) -> NoReturn:
    """SIGTERM: leave through all the `finally`."""
    sys.exit(143)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.scenario_{name}")


def run_all(console: Console, names: tuple[str, ...], bench: Bench, out: str) -> list[str]:
    """Return the scenarios that could not be run: a missed target is no failure."""
    start = time.monotonic()
    found = machine.facts()
    console.print(machine.line(found))
    targets: list[Target] = []
    failed = []
    for name in names:
        try:
            targets += run_one(console, name, bench, out, found)
        except Exception:  # the others are still worth having
            failed.append(name)
            console.print(f"{name} failed:", style="red")
            console.print(traceback.format_exc(), markup=False)
        bench.place.clear()
    missed = [target.what for target in targets if not target.met]
    console.print(f"{time.monotonic() - start:.0f} s; JSON and plots are in {out}")
    console.print(f"{len(targets) - len(missed)} of {len(targets)} targets met")
    for what in missed:
        console.print(f"  not met: {what}")
    return failed


def run_one(
    console: Console, name: str, bench: Bench, out: str, found: dict[str, object]
) -> list[Target]:
    from benchmarks import plots  # matplotlib takes a second that --help should not

    with report.progress(console, name) as tell:
        outcome = load(name).run(bench, tell)
    report.show(console, outcome)
    report.write_json(out, name, outcome, found, quick=bench.quick)
    for chart in outcome.charts:
        plots.draw(chart, out, machine.line(found))
    return list(outcome.targets)
