"""Numbers and names in a readable form. No result can control a terminal."""

from collections.abc import Sequence

__all__ = ["amount", "duration", "elements", "mode", "printable", "size", "user"]

UNITS = ("B", "K", "M", "G", "T", "P")
UNKNOWN = "?"
NOTHING = "-"


def printable(text: str) -> str:
    """Return the text with unprintable characters escaped, as any program may have chosen it."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def size(count: int | None) -> str:
    """Return a number of bytes as `ls -h` shows it: 512B, 8.0K, 1.5G."""
    if count is None:
        return UNKNOWN
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{count}B" if unit == 0 else f"{number:.{1 if number < 10 else 0}f}{UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """Return seconds in the two largest units: 0.25s, 12s, 3m20s, 5h10m, 8d3h."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = int(seconds)
    for name, length, minor, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= length:
            return f"{whole // length}{name}{whole % length // part}{minor}"
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60}s"


def amount(number: int | None) -> str:
    """Return a count."""
    return UNKNOWN if number is None else str(number)


def elements(shape: Sequence[int] | None, dtype: str | None) -> str:
    """Return a shape and a type: "2x3 float32"."""
    return NOTHING if shape is None else f"{'x'.join(map(str, shape))} {dtype}"


def mode(bits: int | None) -> str:
    """Return permission bits, in octal."""
    return UNKNOWN if bits is None else f"{bits:04o}"


def user(uid: int | None) -> str:
    """Return a user's name, or number if it has none here."""
    if uid is None:
        return UNKNOWN
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
