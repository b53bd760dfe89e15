"""Labels: the caller's names for the purposes of locks, for logs, figures and `holders()`.

A label is known only in this process. While a hold with a label acquires, converts or releases,
its label is in LABEL, where code that counts or logs in that thread or task finds it. So no
function has to pass it on, and a lock without a label costs nothing more.
"""

from contextvars import ContextVar
from types import TracebackType
from typing import Any

__all__ = ["LABEL", "check_label", "said", "with_label"]

MAX_LENGTH = 100

#: The label of the hold that this thread or task acquires, converts or releases now.
LABEL: ContextVar[str | None] = ContextVar("shm_async.label", default=None)


class said:  # noqa: N801  # read as a verb: `with said(label):`
    """Have LABEL say this label in a block, and afterwards what it said before."""

    __slots__ = ("_before", "_label")

    def __init__(self, label: str | None) -> None:
        self._label = label
        self._before = LABEL.get()

    def __enter__(self) -> None:
        try:
            LABEL.set(self._label)
        except BaseException:  # Ctrl-C is noticed when the call has returned
            LABEL.set(self._before)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        LABEL.set(self._before)


def check_label(label: Any) -> str:
    """Return the label.

    Raises:
        TypeError: it is not a str. ValueError: it is empty, too long, or not a line of text.
    """
    if not isinstance(label, str):
        raise TypeError(f"label must be a str, not {type(label).__name__}: say label='checkout'")
    if not (0 < len(label) <= MAX_LENGTH and label.isprintable()):
        raise ValueError(
            f"label must be 1 to {MAX_LENGTH} printable characters, not {label[: MAX_LENGTH + 1]!r}"
        )
    return label


def with_label(what: str, label: str | None) -> str:
    """Name a lock in a message: ``write lock 'checkout'``."""
    return what if label is None else f"{what} {label!r}"
