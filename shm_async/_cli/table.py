"""Tables: aligned text, in colour by rich on a terminal, and never wider than that."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .words import printable

__all__ = ["Column", "is_terminal", "lines_of", "print_table", "terminal_size", "wants_colour"]

GAP = "  "
NARROWEST = 8  # characters that the first column keeps


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its head, and its importance."""

    head: str
    rank: int = 0  #: where there is no room, the column with the highest goes first
    right: bool = False  #: aligned to the right, as numbers are


def is_terminal() -> bool:
    """Tell whether the output goes to a terminal."""
    return sys.stdout.isatty()


def wants_colour() -> bool:
    """Tell whether the output may have colour: https://no-color.org."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width() -> int | None:
    """Return the columns of the terminal; None: no terminal, so no limit."""
    return terminal_size()[0] if is_terminal() else None


def terminal_size() -> tuple[int, int]:
    """Return columns and lines of the terminal."""
    import shutil

    columns, lines = shutil.get_terminal_size()
    return columns, lines


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[str] | None = None,
) -> None:
    """Print a table; `styles` are rich's, one a row, for output with colour."""
    lines = lines_of(columns, rows, terminal_width())
    if wants_colour() and _print_colourful(lines, styles):
        return
    for line in lines:
        print(line)


def _print_colourful(lines: list[str], styles: Sequence[str] | None) -> bool:
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(lines[0], style="bold"))
    for line, style in zip(lines[1:], styles or [""] * len(lines), strict=False):
        console.print(Text(line, style=style))
    return True


def lines_of(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[str]:
    """Return the lines of a table. If it is too wide, leave columns out, then cut the first one."""
    cells = [[column.head for column in columns], *([printable(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    shown = list(range(len(columns)))
    while width is not None and _total(widths, shown) > width and len(shown) > 1:
        worst = max(shown, key=lambda i: columns[i].rank)
        if not columns[worst].rank:
            break
        shown.remove(worst)
    if width is not None:
        excess = max(0, _total(widths, shown) - width)
        widths[shown[0]] = max(min(NARROWEST, widths[shown[0]]), widths[shown[0]] - excess)
    return [_line(columns, row, widths, shown)[:width] for row in cells]


def _total(widths: list[int], shown: list[int]) -> int:
    return sum(widths[i] for i in shown) + len(GAP) * (len(shown) - 1)


def _line(columns: Sequence[Column], row: list[str], widths: list[int], shown: list[int]) -> str:
    cells = []
    for i in shown:
        text = row[i] if len(row[i]) <= widths[i] else row[i][: widths[i] - 1] + "…"
        cells.append(text.rjust(widths[i]) if columns[i].right else text.ljust(widths[i]))
    return GAP.join(cells).rstrip()
