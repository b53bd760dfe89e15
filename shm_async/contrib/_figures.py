"""What is exported about regions, whatever the library: plain numbers that can be added up."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any, Protocol

from .._lock.statistics import Statistics
from .._watch.inspection import inspect
from ..errors import ShmError

__all__ = [
    "Figures",
    "Observed",
    "add",
    "are_figures",
    "attachments_of",
    "figures_of",
    "generation_of",
]

#: What a process has counted, by the region's name: the fields of `Statistics`, as JSON has them.
Figures = dict[str, dict[str, Any]]


class Observed(Protocol):
    """What is exported of a region: a `Region` has it."""

    @property
    def name(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def generation(self) -> int | None: ...
    @property
    def closed(self) -> bool: ...
    def statistics(self) -> Statistics: ...


def statistics_of(statistics: Statistics) -> dict[str, Any]:
    """The fields, as JSON has them."""
    figures = {each.name: getattr(statistics, each.name) for each in fields(Statistics)}
    figures["waits"] = list(statistics.waits)
    labels = statistics.labels.items()
    figures["labels"] = {label: statistics_of(figures) for label, figures in labels}
    return figures


def figures_of(regions: Iterable[Observed]) -> Figures:
    """The figures of this process. Never blocks, and works on closed regions."""
    total: Figures = {}
    for region in regions:
        add(total, {region.name: statistics_of(region.statistics())})
    return total


def are_figures(value: Any) -> bool:
    """Whether it is what `figures_of` returns: it may come from a table that others can write."""
    return isinstance(value, dict) and all(map(_are_fields, value.values()))


def _are_fields(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != BLANK.keys():
        return False
    if not isinstance(value["waits"], list) or len(value["waits"]) != len(BLANK["waits"]):
        return False
    numbers = [*value["waits"], *(value[key] for key in BLANK if key not in ("waits", "labels"))]
    return are_figures(value["labels"]) and all(type(each) in (int, float) for each in numbers)


def add(total: Figures, more: Figures) -> None:
    """Add `more` to `total`: counts are added, of the longest times the longer one counts."""
    for name, figures in more.items():
        known = total.get(name)
        if known is None:
            total[name] = {**figures, "labels": {}, "waits": list(figures["waits"])}
            add(total[name]["labels"], figures["labels"])
        else:
            _add_fields(known, figures)


def _add_fields(total: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if key == "labels":
            add(total[key], value)
        elif key == "waits":
            total[key] = list(map(sum, zip(total[key], value, strict=True)))
        elif key.startswith("longest"):
            total[key] = max(total[key], value)
        else:
            total[key] += value


BLANK = statistics_of(Statistics())


def generation_of(region: Observed) -> int | None:
    """How far writing has come; None: it cannot be known any more."""
    with suppress(ShmError):
        return region.generation
    return None


def attachments_of(names: Iterable[str]) -> dict[str, int]:
    """How often each is attached, by any process of this host, where that is known."""
    wanted = set(names)
    with suppress(OSError):
        return {
            info.name: info.attachments
            for info in inspect()
            if info.name in wanted and info.linked and info.attachments is not None
        }
    return {}
