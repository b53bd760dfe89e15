"""`top`: the regions of this host, live."""

import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .._memory.names import SHM_DIR
from . import words
from .listing import STYLES
from .rates import COLUMNS, ORDERS, Rated, Rater, row_of
from .table import lines_of, print_table, terminal_size, wants_colour

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["top"]

HELP = "q quit   < > sort   r reverse   space now"
NAMES = list(ORDERS)
ARROWS = {"\x1b[D": "<", "\x1b[C": ">"}


def top(options: Namespace) -> int:
    """Show regions again and again."""
    rater = Rater(options.pattern)
    view = View(options.sort)
    live = options.count is None and not options.json and sys.stdin.isatty() and wants_colour()
    if live and _can_live():
        _live(rater, view, options.interval)
    else:
        _plain(rater, view, options)
    return 0


class View:
    """The order of the table."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.reverse = False

    def sorted(self, found: list[Rated]) -> list[Rated]:
        """Return the regions in that order."""
        return sorted(found, key=ORDERS[self.order], reverse=self.reverse)

    def press(self, key: str) -> None:
        """Change it by a key."""
        step = {"<": -1, ",": -1, ">": 1, ".": 1}.get(key, 0)
        self.order = NAMES[(NAMES.index(self.order) + step) % len(NAMES)]
        self.reverse ^= key in ("r", "R")


def _plain(rater: Rater, view: View, options: Namespace) -> None:
    rater.look()  # rates take two looks
    done = 0
    while options.count is None or done < options.count:
        time.sleep(options.interval)
        found = view.sorted(rater.look())
        if options.json:
            print(json.dumps([each.as_json() for each in found]), flush=True)
        else:
            if done:
                print()
            styles = [STYLES.get(each.info.state or "", "") for each in found]
            print_table(COLUMNS, [row_of(each) for each in found], styles=styles)
            sys.stdout.flush()
        done += 1


# ---- live ----------------------------------------------------------------------------------


def _can_live() -> bool:
    return find_spec("rich") is not None


def _live(rater: Rater, view: View, interval: float) -> None:
    from rich.live import Live

    found = rater.look()
    pause = min(interval, 0.5)  # the first rates come soon
    with _keys() as fd, Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(_frame(view, found), refresh=True)
            key = _key(fd, pause)
            if key in ("q", "Q", "\x04"):
                return
            view.press(key)
            if key in ("", " "):
                found, pause = rater.look(), interval


def _frame(view: View, found: list[Rated]) -> "Text":
    from rich.text import Text

    width, height = terminal_size()
    shown = view.sorted(found)[: max(0, height - 3)]
    lines = lines_of(COLUMNS, [row_of(each) for each in shown], width)
    frame = Text(no_wrap=True, overflow="crop", end="")
    frame.append(_summary(found)[:width] + "\n")
    frame.append(f"by {view.order}   {HELP}"[:width] + "\n", style="dim")
    frame.append(lines[0].ljust(width), style="reverse")
    for line, each in zip(lines[1:], shown, strict=True):
        frame.append("\n" + line, style=STYLES.get(each.info.state or "", ""))
    return frame


def _summary(found: list[Rated]) -> str:
    room = os.statvfs(SHM_DIR)
    total = room.f_blocks * room.f_frsize
    used = total - room.f_bfree * room.f_frsize
    waiting = sum(len(each.info.waiters) for each in found)
    rate = sum(each.rate or 0 for each in found)
    return (
        f"shm-async top  {time.strftime('%H:%M:%S')}  {len(found)} regions, {rate:.0f} writes/s, "
        f"{waiting} waiting; {SHM_DIR}: {words.size(used)} of {words.size(total)} used"
    )


@contextmanager
def _keys() -> Iterator[int]:
    """Read keys one by one, without an echo, for a block."""
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _key(fd: int, seconds: float) -> str:
    """Return the next key; "" if none comes in time."""
    import select

    ready, _, _ = select.select([fd], [], [], seconds)
    if not ready:
        return ""
    pressed = os.read(fd, 1)  # more may be typed already: each key counts
    if pressed == b"\x1b" and select.select([fd], [], [], 0)[0]:
        pressed += os.read(fd, 2)  # the rest of an arrow
    key = pressed.decode("latin-1")
    return ARROWS.get(key, key[:1]) or "q"  # nothing: the terminal is gone
