"""Bytes in the form of `hexdump -C`."""

from collections.abc import Iterator

__all__ = ["hexdump"]

WIDTH = 16


def hexdump(data: bytes, start: int = 0) -> Iterator[str]:
    """Yield the lines of a dump of `data`, with "*" for repeats. Its first byte is `start`."""
    before, starred = b"", False
    for offset in range(0, len(data), WIDTH):
        row = data[offset : offset + WIDTH]
        if row == before:
            if not starred:
                yield "*"
            starred = True
            continue
        before, starred = row, False
        yield _line(start + offset, row)
    if data:
        yield f"{start + len(data):08x}"


def _line(offset: int, row: bytes) -> str:
    halves = [row[:8].hex(" "), row[8:].hex(" ")]
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
    return f"{offset:08x}  {halves[0]:<23}  {halves[1]:<23}  |{text}|"
