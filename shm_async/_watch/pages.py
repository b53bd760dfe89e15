"""The control page of an object for `inspect`: read quietly, and checked."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .._memory import control
from .._memory.control import CONTROL_SIZE, PAGE, Control, Mark
from .._memory.proclocks import Row
from ..errors import RegionFormatError
from .objects import Found, read_quietly

__all__ = ["Fields", "Page", "read_page"]

Fields: TypeAlias = dict[str, int | bytes | tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Page:
    """The facts of a control page, and the layout of its object."""

    layout: Literal["managed", "raw"] | None  # None: it cannot be read
    control: Control | None = None  # the fields that never change, checked
    fields: Fields | None = None  # all fields, unchecked
    mark: Mark | None = None  # of a writer that is active, or died while it was
    problem: str | None = None  # why it could not be read, or is damaged

    @property
    def damaged(self) -> bool:
        """Whether there is a control page that makes no sense."""
        return self.fields is not None and self.control is None

    def number(self, field: str) -> int | None:
        """Return a field that changes; None: there is no undamaged page."""
        value = self.fields[field] if self.fields is not None and not self.damaged else None
        return value if isinstance(value, int) else None


RAW = Page("raw")


def read_page(found: Found, rows: list[Row]) -> Page:
    """Read the control page of an object, whose locks are `rows`, if it has one."""
    if found.size < 2 * PAGE or found.size % PAGE:
        return RAW
    try:
        page = read_quietly(found, rows, found.size - CONTROL_SIZE, CONTROL_SIZE)
    except OSError as error:
        return Page(None, problem=f"cannot read its control page: {error.strerror}")
    if len(page) < CONTROL_SIZE:
        return Page(None, problem="it was truncated or replaced just now")
    try:
        known = control.unpack(page, found.size, found.name)
    except RegionFormatError as error:
        return Page("managed", fields=control.fields_of(page), problem=str(error))
    if known is None:
        return RAW
    return Page("managed", known, control.fields_of(page), control.mark(page))
