"""Tables for the eye, JSON for the rest, and progress while it takes."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.harness import Report
from benchmarks.outcome import Cell, Outcome, Table, Target

WIDTH = 130  # where the output is no terminal


def make_console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def number(value: Cell) -> str:
    """Three significant digits, or the reason why there is no number."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) >= 0.001 else f"{value:.1g}"


@contextmanager
def progress(console: Console, name: str) -> Iterator[Report]:
    """Show how far a scenario has come; without a terminal, that it began and ended."""
    start = time.monotonic()
    if not console.is_terminal:
        console.print(f"{name} ...")
        yield lambda label, share: None
        console.print(f"{name}: {time.monotonic() - start:.0f} s")
        return
    name_column = TextColumn("{task.fields[scenario]}")
    label_column = TextColumn("{task.description}")
    columns = (name_column, BarColumn(), TimeElapsedColumn(), label_column)
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("starting", total=1.0, scenario=name)
        yield lambda label, share: bar.update(task, description=label, completed=share)


def show(console: Console, outcome: Outcome) -> None:
    for table in outcome.tables:
        console.print(_rich_table(table))
    for note in outcome.notes:
        console.print(f"  {note}", style="dim")
    if outcome.targets:
        console.print(_targets_table(outcome.targets))
    console.print()


def _rich_table(table: Table) -> RichTable:
    shown = _empty(table.title)
    for column in table.columns:
        shown.add_column(column, justify="right")
    for who, cells in table.rows:
        style = "bold" if who.startswith("shm_async") else ""
        shown.add_row(who, *map(number, cells), style=style)
    return shown


def _targets_table(targets: list[Target]) -> RichTable:
    shown = _empty("targets")
    shown.add_column("measured", justify="right")
    shown.add_column("target", justify="right")
    shown.add_column("")
    for target in targets:
        limit = f"{target.relation} {number(target.limit)} {target.unit}"
        verdict = Text("met", "green") if target.met else Text("not met", "yellow")
        shown.add_row(target.what, number(target.value), limit, verdict)
    return shown


def _empty(title: str) -> RichTable:
    shown = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    shown.add_column("", no_wrap=True)
    return shown


def write_json(
    directory: str, name: str, outcome: Outcome, machine: dict[str, object], *, quick: bool
) -> None:
    facts = dataclasses.asdict(outcome)
    del facts["charts"]
    for fact, target in zip(facts["targets"], outcome.targets, strict=True):
        fact["met"] = target.met
    with open(os.path.join(directory, f"{name}.json"), "w") as file:
        json.dump({"scenario": name, "quick": quick, "machine": machine, **facts}, file, indent=1)
        file.write("\n")
