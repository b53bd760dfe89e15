"""The command line: all commands and options, for parsing, the help and the manual page.

A command's code is imported when it runs, so --help is quick.
"""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from . import texts

__all__ = ["SORTS", "make_parser"]

PROG = "shm-async"
SORTS = ("name", "size", "owner", "attached", "waiting", "writes", "age", "state")
ORDERS = ("writes/s", "waiting", "attached", "size", "writes", "name")
LAYOUTS = ("managed", "raw", "sized")
Add = Callable[..., argparse.ArgumentParser]


def make_parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=texts.DESCRIPTION,
        epilog=texts.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, help="show the version and exit")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )

    def add(name: str, function: str) -> argparse.ArgumentParser:
        summary, more = texts.COMMANDS[name]
        command: argparse.ArgumentParser = commands.add_parser(
            name,
            help=summary,
            usage=f"{PROG} {name} {texts.USAGES[name]}",
            description=f"{summary[0].upper()}{summary[1:]}. {more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(function=function)
        return command

    for group in (_looking, _data, _locking, _watching, _managing, _host):
        group(add)
    return parser


class Version(argparse.Action):
    """Print the version; it is looked up only then."""

    def __init__(self, option_strings: list[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"{PROG} {version('shm-async')}")
        parser.exit()


# ---- what several commands have --------------------------------------------------------


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, for programs")


def _name(command: argparse.ArgumentParser, *, many: bool = False) -> None:
    command.add_argument("--key", action="store_true", help="NAME is the key of a System V segment")
    name = command.add_argument(
        "names" if many else "name",
        metavar="NAME",
        nargs="+" if many else None,
        help="a name in /dev/shm, with or without a slash in front, or a key such as 0x1234",
    )
    completes_regions(name)


def completes_regions(action: argparse.Action) -> None:
    """Have shells complete this argument with the names of regions."""
    action.complete = texts.REGION_NAMES  # type: ignore[attr-defined]  # shtab reads it


def _attaching(command: argparse.ArgumentParser) -> None:
    """Add the options of commands that attach to the region and wait for its lock."""
    command.add_argument(
        "-w",
        "--wait",
        type=float,
        metavar="SECONDS",
        help="give up after so long, and name the lock's holders (default: wait for ever)",
    )
    command.add_argument(
        "--ignore-death",
        action="store_true",
        help="go on even if the last writer died, and the data may be half-written",
    )
    _trusting(command)


def _trusting(command: argparse.ArgumentParser) -> None:
    """Add the options of commands that attach to the region."""
    command.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="the layout of the object; needed for sized; raw shows a damaged region",
    )
    command.add_argument(
        "--any-owner", action="store_true", help="trust a region of another user than you or root"
    )


def _choices(values: Iterable[str]) -> str:
    return ", ".join(values)


# ---- commands --------------------------------------------------------------------------


def _looking(add: Add) -> None:
    ls = add("ls", "listing:ls")
    pattern = ls.add_argument(
        "pattern",
        metavar="PATTERN",
        nargs="?",
        default="*",
        help="only names that match, as in a shell",
    )
    completes_regions(pattern)
    ls.add_argument(
        "--managed",
        action="store_true",
        help="only regions that have a control page of this package",
    )
    ls.add_argument(
        "--sort",
        choices=SORTS,
        default="name",
        metavar="FIELD",
        help=f"one of {_choices(SORTS)}; numbers the largest first (default: name)",
    )
    ls.add_argument("-q", "--quiet", action="store_true", help="names only")
    _json(ls)
    for name, function in (("info", "describing:info"), ("holders", "describing:holders")):
        command = add(name, function)
        _json(command)
        _name(command)


def _data(add: Add) -> None:
    dump = add("dump", "data:dump")
    dump.add_argument(
        "--as", dest="type", metavar="TYPE", help="take the bytes for elements of this type: uint32"
    )
    dump.add_argument(
        "--offset",
        type=count,
        default=0,
        metavar="N",
        help="begin with this element, or with this byte for --hex and --raw (default: 0)",
    )
    dump.add_argument(
        "--count", type=count, metavar="N", help="so many elements, or bytes, at most"
    )
    form = dump.add_mutually_exclusive_group()
    form.add_argument("--hex", action="store_true", help="in the form of hexdump -C")
    form.add_argument("--raw", action="store_true", help="the bytes as they are, for pipes")
    form.add_argument("--json", action="store_true", help="print JSON, for programs")
    _attaching(dump)
    _name(dump)
    get = add("get", "data:get")
    _json(get)
    _attaching(get)
    _name(get)
    get.add_argument("index", metavar="INDEX", nargs="?", help="which; all if left out")
    store = add("set", "data:store")
    store.add_argument(
        "--recover",
        action="store_true",
        help="store even if the last writer died; the region is sound again afterwards",
    )
    _attaching(store)
    _name(store)
    store.add_argument("index", metavar="INDEX", help="where the first value goes")
    store.add_argument("values", metavar="VALUE", nargs="+", help="numbers, true, false; or -")


def _locking(add: Add) -> None:
    lock = add("lock", "locking:lock")
    kind = lock.add_mutually_exclusive_group()
    kind.add_argument("-s", "--shared", action="store_true", help="the read lock")
    kind.add_argument(
        "-x", "-e", "--exclusive", action="store_true", help="the write lock (default)"
    )
    lock.add_argument(
        "-n", "--nb", "--nonblock", dest="nonblock", action="store_true", help="do not wait"
    )
    lock.add_argument(
        "-w",
        "--wait",
        "--timeout",
        dest="wait",
        type=float,
        metavar="SECONDS",
        help="give up after so long, and name the lock's holders",
    )
    lock.add_argument(
        "-E",
        "--conflict-exit-code",
        dest="conflict",
        type=exit_status,
        default=1,
        metavar="CODE",
        help="the exit status if the lock was not granted (1)",
    )
    lock.add_argument(
        "-o", "--close", action="store_true", help="accepted: COMMAND never inherits the lock"
    )
    lock.add_argument(
        "-c", "--command", dest="shell", metavar="LINE", help="have the shell run this line"
    )
    lock.add_argument("--verbose", action="store_true", help="tell how long it waited")
    _trusting(lock)
    _name(lock)
    lock.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="to run; -- may stand in front"
    )


def _watching(add: Add) -> None:
    watch = add("watch", "watching:watch")
    watch.add_argument("--once", action="store_true", help="end after the first change")
    watch.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="end when nothing changes for so long"
    )
    _json(watch)
    _trusting(watch)
    _name(watch)
    watch.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="to run; -- may stand in front"
    )
    top = add("top", "top:top")
    top.add_argument(
        "--interval", type=seconds, default=2.0, metavar="S", help="seconds between looks (2)"
    )
    top.add_argument("--count", type=count, metavar="N", help="so many tables, then end")
    top.add_argument(
        "--sort",
        choices=ORDERS,
        default=ORDERS[0],
        metavar="FIELD",
        help=f"one of {_choices(ORDERS)} (default: {ORDERS[0]})",
    )
    _json(top)
    completes_regions(
        top.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="of names")
    )


def seconds(text: str) -> float:
    """Return a time to sleep; argparse names the argument that is none."""
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError
    return number


def exit_status(text: str) -> int:
    """Return an exit status; argparse names the argument that is none."""
    number = int(text)
    if not 0 <= number <= 255:
        raise ValueError
    return number


def _managing(add: Add) -> None:
    create = add("create", "managing:create")
    create.add_argument("--dtype", default="uint8", metavar="TYPE", help="of the elements (uint8)")
    _shape(create)
    create.add_argument(
        "--mode", type=octal, default=0o600, metavar="MODE", help="permission bits, octal (600)"
    )
    create.add_argument("--layout", choices=LAYOUTS, help="where the data lies (managed)")
    create.add_argument(
        "--sparse", action="store_true", help="leave the memory to the first store of each page"
    )
    _name(create)
    create.add_argument("length", metavar="LENGTH", type=count, nargs="?", help="of elements")
    remove = add("rm", "managing:remove")
    remove.add_argument("-f", "--force", action="store_true", help="ignore missing ones")
    _name(remove, many=True)
    resize = add("resize", "managing:resize")
    _shape(resize)
    _attaching(resize)
    _name(resize)
    resize.add_argument("length", metavar="LENGTH", type=count, nargs="?", help="of elements")
    prune = add("prune", "managing:prune")
    prune.add_argument("--force", action="store_true", help="remove them")
    _json(prune)
    completes_regions(
        prune.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="of names")
    )


def _shape(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shape", help="elements in each dimension, such as 2x3: no LENGTH then")


def count(text: str) -> int:
    """Return a number of elements or bytes; argparse names the argument that is none."""
    number = int(text, 0)
    if number < 0:
        raise ValueError
    return number


def octal(text: str) -> int:
    return int(text, 8)


def _host(add: Add) -> None:
    _json(add("doctor", "doctor:doctor"))
    bench = add("bench", "benching:bench")
    bench.add_argument(
        "--seconds", type=seconds, default=1.0, metavar="S", help="for each measurement (1)"
    )
    _json(bench)
    sql = add("sql", "database:sql")
    sql.add_argument(
        "--schema", default="shm_async", metavar="NAME", help="where to create it (shm_async)"
    )
    sql.add_argument("--role", metavar="ROLE", help="a role to grant what users of regions need")
