"""What a scenario hands back: tables, targets, charts and summarised samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.harness import Summary
from benchmarks.place import Place

#: A number, or the short reason why there is none.
Cell = float | str


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario is given besides `report`."""

    quick: bool
    place: Place
    build: str | None = None  # where the members import shm_async from; None: as installed

    def pick(self, quick: int, full: int) -> int:
        return quick if self.quick else full


@dataclass(slots=True)
class Table:
    """Rows of cells; the first column names who was measured."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, Sequence[Cell]]] = field(default_factory=list)

    def add(self, who: str, *cells: Cell) -> None:
        assert len(cells) == len(self.columns), (who, cells)
        self.rows.append((who, cells))


@dataclass(frozen=True, slots=True)
class Target:
    """What we want a number to be. Missing one is told, and fails nothing."""

    what: str
    value: float
    relation: Literal["<=", ">=", "<"]
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        if self.relation == ">=":
            return self.value >= self.limit
        return self.value < self.limit if self.relation == "<" else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar for each who: a number, with a whisker up to `high` where there is one."""

    file: str
    title: str
    axis: str
    bars: Sequence[tuple[str, Cell]]
    highs: Sequence[float | None] = ()
    log: bool = False
    ours: str = "shm_async"  # whose names start like this are set off by colour
    note: str = ""


@dataclass(frozen=True, slots=True)
class Lines:
    """One line for each who over a common x."""

    file: str
    title: str
    x_axis: str
    y_axis: str
    x: Sequence[float]
    lines: Sequence[tuple[str, Sequence[Cell]]]
    ours: str = "shm_async"
    note: str = ""


@dataclass(slots=True)
class Outcome:
    """The result of one scenario."""

    title: str
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    charts: list[Bars | Lines] = field(default_factory=list)
    samples: dict[str, Summary | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
