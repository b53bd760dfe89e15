"""The figures of all processes of a service together, in a region of its own.

Each process has a row, which only it writes: a JSON text, compressed. One thread of each process
writes it, once a second, if something has changed, and nothing on a lock's way. The first row is
of those that have ended: a reader that finds a row of a process which is gone adds its counts to
it.

A process can be killed between any two stores. A row has two sides and a byte that says which one
is valid, so a new text counts with the store of that byte, and until then the old one does. The
first row says whose counts it was given last. Until their rows are free, they do not count twice.

So a process that is killed loses what it counted since its row was written last, a second's worth.
There is nothing else to clean up: no file of a process, and the rows of the dead are used again.
"""

import json
import logging
import os
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from .._memory.control import pid_namespace, process_identity, start_of
from .._region import Region
from .._watch.inspection import RegionInfo
from ..errors import RegionExistsError, RegionNotFoundError, ShmError
from ._figures import Figures, Observed, add, are_figures, figures_of

__all__ = ["ROW", "Purposes", "Together", "figures_of_table", "may_be_table", "purposes_of_table"]

logger = logging.getLogger("shm_async")

#: Bytes of a row: FREE or the number of the side that is valid, 1 or 2; then the two sides.
ROW = 16384
SIDE = (ROW - 1) // 2
FREE = 0
PAST = 0  # the row of those that have ended

#: Bytes of the longest text, before it is compressed: others can write the table, too.
LONGEST = 1 << 22

#: The end of a table, after the rows: so it is found whatever its name is.
MARK = b"shm_async table\n"

#: The label of each write that lasts, by the region's name and the generation that it made: so
#: nobody takes it for that of a later write.
Purposes: TypeAlias = dict[str, dict[int, str]]

#: Seconds between two writes.
INTERVAL = 1.0

#: Seconds for which a thread that publishes waits for the lock of the table.
PATIENCE = 0.5


class Together:
    """The table of one service, as this process sees it. It works on in a forked child."""

    def __init__(self, name: str, regions: Sequence[Observed], *, processes: int) -> None:
        self.regions = regions
        self.table = _table(name, processes + 1)
        try:
            self._begin()
        except BaseException:
            self.table.close()
            raise
        known = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _after_fork(known()))

    def _begin(self) -> None:
        self.me = [*process_identity(), pid_namespace()]
        self.row: int | None = None
        self.written = b""
        self.told = False  # that figures are missing
        self.guard = threading.Lock()
        self.stopped = threading.Event()
        thread = threading.Thread(
            target=_publish, args=(weakref.ref(self), self.stopped), name="shm_async figures"
        )
        thread.daemon = True
        thread.start()

    def begin_again(self) -> None:
        """Go on in a forked child, with a row of its own."""
        self._begin()

    # ---- write ---------------------------------------------------------------------

    def publish(self) -> None:
        """Write the figures of this process. Blocks for PATIENCE seconds at the most.

        Raises:
            ShmError: the table cannot be locked.
        """
        with self.guard:
            figures = figures_of(self.regions)
            text = _text(self.me, figures, purposes=_purposes(self.regions, figures))
            if text is None:
                self._tell("the figures of this process are too long for it")
            elif text != self.written:
                self._put(text)

    def _put(self, text: bytes) -> None:
        with self.table.write_lock(timeout=PATIENCE) as view:
            row = self._my_row(view)
            if row is not None:
                _write(view, row, text)
                view[-len(MARK) :] = MARK
        if row is None:
            self._tell("all rows are taken: unlink it, and make it with more processes=")
        else:
            self.row, self.written = row, text

    def _my_row(self, view: memoryview) -> int | None:
        """The row of this process, or one that is free; None: all are taken."""
        if self.row is not None and _process(_read(view, self.row)) == self.me:
            return self.row
        self._bury(view)
        taken = _entries(view)
        return next((row for row in range(1, len(view) // ROW) if row not in taken), None)

    def _bury(self, view: memoryview) -> None:
        """Add what the processes that have ended had counted to the first row."""
        entries = _entries(view)
        past = entries.pop(PAST, {})
        ended: dict[int, list[int]] = {}
        for row, entry in entries.items():
            process = _process(entry)
            if process in _added(past):  # the one that added it was killed then
                view[row * ROW] = FREE
            elif process is not None and self._has_ended(process):
                ended[row] = process
        if not ended:
            return
        figures = past.get("figures", {})
        for row in ended:
            add(figures, _of_the_past(entries[row]["figures"]))
        text = _text(None, figures, added=list(ended.values()))
        if text is None:
            self._tell("the figures of the processes that have ended are too long for it")
            return
        _write(view, PAST, text)
        for row in ended:
            view[row * ROW] = FREE

    def _has_ended(self, process: list[int]) -> bool:
        pid, start, namespace = process
        if process == self.me or namespace != self.me[2] or namespace == 0:
            return False
        try:
            os.kill(pid, 0)
        except PermissionError:  # another user's, which /proc may hide
            pass
        except (ProcessLookupError, OverflowError):
            return True
        return start_of(pid) not in (start, None)  # a later process may have its pid

    def _tell(self, why: str) -> None:
        """Log once that figures are missing."""
        if not self.told:
            self.told = True
            logger.warning("table %r misses figures: %s", self.table.name, why)

    # ---- read ----------------------------------------------------------------------

    def sum(self) -> Figures:
        """The figures of all processes, those that have ended included. Blocks like `publish`.

        Raises:
            ShmError: the table cannot be locked.
        """
        self.publish()
        with self.table.write_lock(timeout=PATIENCE) as view:
            self._bury(view)
            data = bytes(view)
        return _total(data)

    def close(self) -> None:
        """Write the figures for the last time and close the table. Blocks like `publish`."""
        self.stopped.set()
        with suppress(ShmError, OSError):
            self.publish()
        self.table.close()


def figures_of_table(name: str) -> Figures:
    """The sum of what stands in a table, without a row of one's own. Blocks for PATIENCE at most.

    Returns:
        Nothing if the region is no table.

    Raises:
        ShmError, OSError: it cannot be read.
    """
    return _total(_copy(name))


def purposes_of_table(name: str) -> Purposes:
    """Return the labels of the writes that went on when the processes wrote their rows.

    Blocks like `figures_of_table`, and raises what that raises.
    """
    found: Purposes = {}
    for entry in _entries(_copy(name)).values():
        for region, purpose in _sound_purposes(entry.get("purposes")):
            found.setdefault(region, {}).update([purpose])
    return found


def _copy(name: str) -> bytes:
    """Return the rows of a table; nothing if the region is no table."""
    with Region.attach(name, readonly=True, on_owner_death="ignore") as table:
        if bytes(table.buffer[-len(MARK) :]) != MARK:
            return b""
        return table.snapshot(timeout=PATIENCE)


def _total(data: bytes) -> Figures:
    entries = _entries(data)
    past = entries.get(PAST, {})
    total: Figures = {}
    for entry in entries.values():
        if entry is past or _process(entry) not in _added(past):
            add(total, entry["figures"])
    return total


def _of_the_past(figures: Figures) -> Figures:
    """What is left of figures once their process has ended: nobody of it waits any more."""
    return {name: {**each, "waiting": 0} for name, each in figures.items()}


def _after_fork(together: Together | None) -> None:
    if together is not None and not together.table.closed:
        together.begin_again()


def _publish(known: "weakref.ref[Together]", stopped: threading.Event) -> None:
    while not stopped.wait(INTERVAL):
        together = known()
        if together is None:
            return
        with suppress(ShmError, OSError):
            together.publish()
        del together


def may_be_table(info: RegionInfo) -> bool:
    """Whether it has the type and the size of a table."""
    return info.dtype == "uint8" and (info.nbytes or 0) % ROW == len(MARK)


def _table(name: str, rows: int) -> Region:
    """The table of that name, of whatever size it is; else a new one."""
    while True:
        try:
            return Region.attach(name, on_owner_death="ignore")
        except RegionNotFoundError:  # noqa: PERF203  # once for a process
            with suppress(RegionExistsError):
                return Region.create(name, rows * ROW + len(MARK), on_owner_death="ignore")


# ---- the purpose of a write --------------------------------------------------------------


def _purposes(regions: Sequence[Observed], figures: Figures) -> dict[str, tuple[int, str]]:
    """Return the generation and the label of this process's write, of each region that has one."""
    found = {}
    for region in regions:
        if figures[region.name]["labels"]:  # else do not look
            with suppress(ShmError, OSError):
                before = region.generation or 0
                label = _label_of_writer(region)
                if label is not None and before & 1 and region.generation == before:
                    found[region.name] = (before, label)
    return found


def _label_of_writer(region: Any) -> str | None:
    mine = [each for each in region.holders() if each.pid == os.getpid() and not each.waiting]
    return next((each.label for each in mine if each.kind == "write"), None)


def _sound_purposes(purposes: Any) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield those that make sense: others can write the table, too."""
    for region, purpose in purposes.items() if isinstance(purposes, dict) else ():
        if isinstance(purpose, list) and [type(each) for each in purpose] == [int, str]:
            generation, label = purpose
            yield region, (generation, label[:100])


# ---- rows ------------------------------------------------------------------------------


def _text(
    process: list[int] | None,
    figures: Figures,
    *,
    added: Sequence[list[int]] = (),
    purposes: Mapping[str, tuple[int, str]] | None = None,
) -> bytes | None:
    """The text of a row, without the labels if it would be too long; None: it still is."""
    unlabelled = {name: {**each, "labels": {}} for name, each in figures.items()}
    for each in (figures, unlabelled):
        entry = {"process": process, "figures": each, "added": added, "purposes": purposes}
        plain = json.dumps(entry).encode()
        text = zlib.compress(plain)
        if len(plain) <= LONGEST and len(text) <= SIDE:
            return text
    return None


def _place(row: int, side: int) -> int:
    return row * ROW + 1 + (side - 1) * SIDE


def _write(view: memoryview, row: int, text: bytes) -> None:
    side = 2 if view[row * ROW] == 1 else 1
    place = _place(row, side)
    view[place : place + len(text)] = text
    view[row * ROW] = side  # from now on it counts


def _read(view: "memoryview | bytes", row: int) -> Any:
    """What stands in a row; None: nothing that makes sense."""
    side = view[row * ROW]
    if side not in (1, 2):
        return None
    place = _place(row, side)
    with suppress(zlib.error, ValueError, RecursionError):
        text = zlib.decompressobj().decompress(view[place : place + SIDE], LONGEST)
        entry = json.loads(text)
        if isinstance(entry, dict) and are_figures(entry.get("figures")):
            return entry
    return None


def _entries(data: "memoryview | bytes") -> dict[int, Any]:
    """What stands in all rows that make sense."""
    found = ((row, _read(data, row)) for row in range(len(data) // ROW))
    return {row: entry for row, entry in found if entry is not None}


def _process(entry: Any) -> list[int] | None:
    """Whose row it is: pid, start, pid namespace; None: nobody's that is known."""
    process = (entry or {}).get("process")
    sound = isinstance(process, list) and [type(each) for each in process] == [int] * 3
    return process if sound else None


def _added(past: Any) -> list[Any]:
    """The processes whose counts are in the first row, though their rows may not be free yet."""
    added = past.get("added")
    return added if isinstance(added, list) else []
