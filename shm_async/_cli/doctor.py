"""`doctor`: the settings of this host that hinder shared memory, with fixes."""

from argparse import Namespace

from . import checks_kernel, checks_memory, checks_place
from .facts import print_json
from .finding import BAD, OK, Finding
from .table import wants_colour
from .words import printable

__all__ = ["doctor"]

UNHEALTHY = 4  # exit status: a finding is bad
STYLES = {"ok": "green", "note": "yellow", "bad": "red"}


def doctor(options: Namespace) -> int:
    """Look at the host."""
    found = [*checks_memory.findings(), *checks_place.findings(), *checks_kernel.findings()]
    if options.json:
        print_json([each.as_json() for each in found])
    else:
        for each in found:
            _print(each)
    return UNHEALTHY if any(each.state == BAD for each in found) else 0


def _print(finding: Finding) -> None:
    print(f"{_coloured(finding.state):<6}{finding.check:<14}{printable(finding.text)}")
    if finding.fix and finding.state != OK:
        for i, line in enumerate(finding.fix):
            print(f"{'':<6}{'fix:' if i == 0 else '':<14}{line}")


def _coloured(state: str) -> str:
    colours = {"ok": "32", "note": "33", "bad": "31"}
    padded = f"{state:<6}"
    return f"\x1b[{colours[state]}m{padded}\x1b[0m" if wants_colour() else padded
