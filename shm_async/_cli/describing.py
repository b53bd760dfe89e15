"""`info` and `holders`: the facts of one region."""

from argparse import Namespace
from glob import escape

from .._failures import not_found
from .._memory.proclocks import Holder
from .._watch import inspection
from .._watch.inspection import RegionInfo
from . import advice, words
from .facts import control_json, holder_json, print_json, region_json
from .names import title_of
from .table import Column, print_table

__all__ = ["find", "holders", "holders_table", "info"]

HOLDERS = (
    Column("PID", right=True),
    Column("COMMAND"),
    Column("KIND"),
    Column("LOCK"),
    Column("FOR", right=True),
)
PROCESSES = (Column("PID", right=True), Column("COMMAND"), Column("MEMORY"), Column("DESCRIPTORS"))


def find(options: Namespace, *, descriptors: bool = False) -> RegionInfo:
    """Return the region that the user named.

    Raises:
        RegionNotFoundError: there is none. ValueError: it is not a name.
    """
    name = title_of(options.name, key=options.key)
    found = inspection.inspect(escape(name), descriptors=descriptors)
    if not found:
        raise not_found(name, "there is no such region")
    return found[0]  # the one that has the name now, before those that had it


def holders(options: Namespace) -> int:
    """Show the holders of the lock and its waiters."""
    region = find(options)
    everyone = region.holders + region.waiters
    if options.json:
        print_json([holder_json(each) for each in everyone])
    else:
        holders_table(everyone)
    return 0


def holders_table(everyone: tuple[Holder, ...]) -> None:
    """Print the holders of a lock and its waiters."""
    print_table(HOLDERS, [_holder_row(each) for each in everyone])


def _holder_row(holder: Holder) -> list[str]:
    return [
        words.amount(holder.pid),
        holder.command or words.UNKNOWN,
        holder.kind or words.UNKNOWN,
        "waits" if holder.waiting else "holds",
        words.duration(holder.since),
    ]


def info(options: Namespace) -> int:
    """Show one region in full."""
    region = find(options, descriptors=True)
    wrong = advice.advice(region)
    if options.json:
        print_json({**region_json(region), "control": control_json(region), "advice": wrong})
        return 0
    _print_facts(region)
    _print_people(region)
    _print_control(region)
    print("\nWhat to do")
    for line in wrong or ["nothing: all is well"]:
        print(f"  * {words.printable(line)}")
    return 0


def _print_facts(region: RegionInfo) -> None:
    for name, value in _facts(region):
        print(f"{name:<12}{words.printable(value)}")


def _facts(region: RegionInfo) -> list[tuple[str, str]]:
    key = "" if region.key is None else f", shmid {region.id}"
    kind = "POSIX shared memory" if region.key is None else f"System V segment{key}"
    data = words.elements(region.shape, region.dtype).replace(" ", " of ")
    writes = words.amount(region.writes)
    if region.written_ago is not None:
        writes += f", the last one began {words.duration(region.written_ago)} ago"
    return [
        ("name", region.name),
        ("kind", kind),
        ("linked", "yes" if region.linked else "no: the name leads to it no more"),
        ("size", f"{region.size} bytes, {words.amount(region.allocated)} of them in memory"),
        ("elements", f"{data}, {words.amount(region.nbytes)} bytes of data"),
        ("layout", region.layout or words.UNKNOWN),
        ("owner", f"{words.user(region.uid)}, mode {words.mode(region.mode)}"),
        ("writes", "not counted" if region.layout == "raw" else writes),
        ("state", region.state or words.UNKNOWN),
        ("attachments", words.amount(region.attachments)),
    ]


def _print_people(region: RegionInfo) -> None:
    print(
        f"\nAttached{'' if region.complete else ' (there may be more that this user cannot see)'}"
    )
    print_table(
        PROCESSES,
        [
            [
                str(each.pid),
                each.command or words.UNKNOWN,
                "mapped" if each.mapped else "open only",
                " ".join(map(str, each.descriptors or ())) or words.NOTHING,
            ]
            for each in region.processes
        ],
    )
    print("\nLock")
    holders_table(region.holders + region.waiters)


def _print_control(region: RegionInfo) -> None:
    fields = control_json(region)
    if fields is None:
        return
    print("\nControl page")
    for name, value in fields.items():
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        print(f"  {name:<16}{words.printable(text)}")
