"""`dump`, `get` and `set`: the content of the memory, under the lock."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import AbstractContextManager

from .. import Region
from .._memory.elements import SIZES, check_dtype, plain
from .elements import Value, as_json, as_text, flat_index, index_range, pack, unpack
from .facts import print_json
from .hexdump import hexdump
from .using import attached, telling_who_holds

__all__ = ["dump", "get", "store"]

PER_LINE = {1: 16, 2: 8, 4: 8, 8: 4}  # elements, by their size in bytes


def dump(options: Namespace) -> int:
    """Show the memory."""
    with attached(options, readonly=True) as region:
        dtype = check_dtype(options.type or region.dtype)
        unit = 1 if options.hex or options.raw else SIZES[dtype]
        start, end = _bytes_wanted(options, unit, region.nbytes)
        data = _read(region, start, end, options.wait)
    if options.raw:
        sys.stdout.buffer.write(data)
    elif options.json:
        values = [as_json(value) for value in unpack(data, dtype)]
        first = start // unit
        print_json({"name": region.name, "dtype": dtype, "offset": first, "values": values})
    elif options.hex:
        for line in hexdump(data, start):
            print(line)
    else:
        _print_values(unpack(data, dtype), start // unit, PER_LINE[SIZES[dtype]])
    return 0


def _bytes_wanted(options: Namespace, unit: int, nbytes: int) -> tuple[int, int]:
    start = min(options.offset * unit, nbytes)
    if options.count is None:
        return start, nbytes
    return start, min(start + options.count * unit, nbytes)


def _read(region: Region, start: int, end: int, timeout: float | None) -> bytes:
    """Return a copy, so that a slow reader of the output does not keep writers waiting."""
    lock = region.read_lock(timeout=timeout)
    with telling_who_holds(region), lock as view, plain(view).cast("B") as memory:
        return bytes(memory[start:end])


def _print_values(values: Sequence[Value], first: int, per_line: int) -> None:
    texts = [as_text(value) for value in values]
    width = max(map(len, texts), default=0)
    digits = len(str(first + len(texts)))
    for i in range(0, len(texts), per_line):
        line = " ".join(text.rjust(width) for text in texts[i : i + per_line])
        print(f"{first + i:>{digits}}: {line}")


def get(options: Namespace) -> int:
    """Print one or several elements, a line each."""
    with attached(options, readonly=True) as region:
        wanted = index_range(options.index, region.shape)
        size = SIZES[region.dtype]
        stop = max(wanted.stop, wanted.start)
        data = _read(region, wanted.start * size, stop * size, options.wait)
        values = unpack(data, region.dtype)
    if options.json:
        print_json([as_json(value) for value in values])
    else:
        for value in values:
            print(as_text(value))
    return 0


def store(options: Namespace) -> int:
    """Store elements, or bytes from stdin."""
    raw = sys.stdin.buffer.read() if options.values == ["-"] else None
    with attached(options) as region:
        first = flat_index(options.index, region.shape)
        data = pack(options.values, region.dtype) if raw is None else raw
        start = first * SIZES[region.dtype]
        if start + len(data) > region.nbytes:
            room = region.nbytes - start
            raise ValueError(f"{len(data)} bytes do not fit: {room} bytes follow index {first}")
        if data:
            _write(region, start, data, options, whole=raw is not None)
    return 0


def _write(region: Region, start: int, data: bytes, options: Namespace, *, whole: bool) -> None:
    hold: AbstractContextManager[memoryview] = region.write_lock(
        timeout=options.wait, recover=options.recover
    )
    if whole and not options.recover:
        hold = region.transaction(timeout=options.wait)
    with telling_who_holds(region), hold as view, plain(view).cast("B") as memory:
        memory[start : start + len(data)] = data
