"""Names of regions on the command line, as in the API: NAME, /NAME, or a System V key."""

import re

from .._memory.names import COMPANION, SUCCESSOR, check_key, check_name, name_of

__all__ = ["address", "title", "title_of"]

KEY = re.compile(r"0[xX][0-9a-fA-F]+")


def address(text: str, *, key: bool = False) -> str | int:
    """Return a name without its slash, or a key.

    Args:
        text: the text on the command line.
        key: the user says that it is a key.

    Raises:
        ValueError: it is neither a name nor a key; the message says why.
    """
    if key or KEY.fullmatch(text):
        try:
            number = int(text, 0)
        except ValueError:
            raise ValueError(f"a key is a number such as 0x1234 or 4660, not {text!r}") from None
        return check_key(number)
    return check_name(text)


def title(where: str | int) -> str:
    """Return the name that inspect() gives to a region with that name or key."""
    return where if isinstance(where, str) else name_of(where)


def title_of(text: str, *, key: bool = False) -> str:
    """Return inspect()'s name of the region in `text`, also for this package's own objects.

    Raises:
        ValueError: it is neither a name nor a key.
    """
    bare = text.removeprefix("/")
    if not key and bare.startswith((COMPANION, SUCCESSOR)) and "/" not in bare:
        return bare
    return title(address(text, key=key))
