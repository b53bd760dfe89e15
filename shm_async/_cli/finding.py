"""A finding of `doctor`."""

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["BAD", "NOTE", "OK", "Finding", "State", "first_line"]

State = Literal["ok", "note", "bad"]

OK: State = "ok"
NOTE: State = "note"  # it works, and may surprise
BAD: State = "bad"  # something will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: its subject, its state, and the fix."""

    check: str
    state: State
    text: str
    fix: tuple[str, ...] = ()  #: one way a line; for findings that are not ok

    def as_json(self) -> dict[str, Any]:
        """Return the object of `doctor --json`."""
        fix = [] if self.state == OK else list(self.fix)
        return {"check": self.check, "state": self.state, "text": self.text, "fix": fix}


def first_line(path: str) -> str | None:
    """Return the first line of a file of the kernel; None: it is missing, or not readable."""
    try:
        with open(path) as file:
            return file.readline().strip()
    except (OSError, UnicodeDecodeError):
        return None
