"""Charts for README and docs, as PNG and SVG.

Ours are blue, the others grey or orange; the palette is Okabe and Ito's, which colour-blind
readers can tell apart, and lines differ by marker and dash as well.
"""

import math
import os
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.outcome import Bars, Lines
from benchmarks.report import number

mpl.use("Agg")  # files, no windows

OURS, OTHERS, DARK, FAINT = "#0072B2", "#B3B3B3", "#333333", "#777777"
OUR_LINES = ("#0072B2", "#56B4E9", "#009E73")
OTHER_LINES = ("#E69F00", "#D55E00", "#CC79A7")
MARKERS = "os^DvP"

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": DARK,
    "text.color": DARK,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "shm_async",  # the same figures give the same file
}


def draw(chart: Bars | Lines, directory: str, caption: str) -> None:
    with plt.rc_context(STYLE):
        figure = _bars(chart) if isinstance(chart, Bars) else _lines(chart)
        figure.axes[0].annotate(
            f"{chart.note}\n{caption}" if chart.note else caption,
            (0, 0),
            xytext=(0, -46),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7.5,
            color=FAINT,
            va="top",
        )
        for suffix in ("png", "svg"):
            path = os.path.join(directory, f"{chart.file}.{suffix}")
            figure.savefig(path, dpi=160, bbox_inches="tight", metadata=_no_date(suffix))
        plt.close(figure)
    if isinstance(chart, Bars):
        with open(os.path.join(directory, f"{chart.file}.txt"), "w", encoding="utf-8") as file:
            file.write(in_words(chart))


def _no_date(suffix: str) -> dict[str, None] | None:
    return {"Date": None} if suffix == "svg" else None


# ---- bars ------------------------------------------------------------------------


def _bars(chart: Bars) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.36 * len(chart.bars)))
    values = [value for _, value in chart.bars if not isinstance(value, str)]
    ends = values + [high for high in chart.highs if high is not None]
    positive = [value for value in ends if value > 0] or [1.0]
    least = 10 ** math.floor(math.log10(min(positive)) - 0.3) if chart.log else 0.0
    if chart.log:
        axes.set_xscale("log")
    axes.set_xlim(least, max(positive) * (4 if chart.log else 1.15))
    for place, (who, value) in enumerate(chart.bars):
        high = chart.highs[place] if chart.highs else None
        _bar(axes, place, value, high, OURS if who.startswith(chart.ours) else OTHERS)
    axes.set_yticks(range(len(chart.bars)), [who for who, _ in chart.bars])
    for label in axes.get_yticklabels():
        if label.get_text().startswith(chart.ours):
            label.set_color(OURS)
            label.set_fontweight("bold")
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(chart.axis)
    axes.set_title(chart.title, pad=12)
    if chart.log:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")  # where the axis is short they overlap
    return figure


def _bar(axes: Axes, place: int, value: float | str, high: float | None, colour: str) -> None:
    left = axes.get_xlim()[0]
    end = left
    if not isinstance(value, str):
        axes.barh(place, value, color=colour, height=0.66)
        end = max(left, value)
        if high is not None:
            axes.plot([value, high], [place, place], color=DARK, linewidth=1)
            axes.plot([high], [place], marker="|", color=DARK, markersize=7)
            end = max(end, high)
    axes.annotate(
        number(value) if high is None else f"{number(value)}, p99 {number(high)}",
        (end, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        style="italic" if isinstance(value, str) else "normal",
        color=FAINT if isinstance(value, str) else DARK,
    )


# ---- lines -----------------------------------------------------------------------


def _lines(chart: Lines) -> Figure:
    figure, axes = plt.subplots(figsize=(8, 4.4))
    ours, others = iter(OUR_LINES), iter(OTHER_LINES)
    for (who, cells), marker in zip(chart.lines, MARKERS, strict=False):
        mine = who.startswith(chart.ours)
        axes.plot(
            chart.x,
            [math.nan if isinstance(cell, str) else cell for cell in cells],
            label=who,
            color=next(ours if mine else others, OTHERS),
            linestyle="-" if mine else "--",
            linewidth=2 if mine else 1.5,
            marker=marker,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(chart.x, [f"{x:,g}" for x in chart.x])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.x_axis)
    axes.set_ylabel(chart.y_axis)
    axes.set_title(chart.title, pad=12)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# ---- as text -------------------------------------------------------------------------

TEXT_WIDTH = 40  # characters of the longest bar


def in_words(chart: Bars) -> str:
    """The bars as plain text, for pages that show no pictures."""
    longest = max((value for _, value in chart.bars if not isinstance(value, str)), default=1.0)
    names = max(len(who) for who, _ in chart.bars)
    lines = [
        f"{who:<{names}}  {value}"
        if isinstance(value, str)
        else f"{who:<{names}}  {'█' * round(value / longest * TEXT_WIDTH) or '▏'} {value:,.0f}"
        for who, value in chart.bars
    ]
    return "\n".join([f"{chart.title}  ({chart.axis})", *lines, ""])
