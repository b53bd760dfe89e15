"""Terms: the options of `create`, `attach` and `open` that say how to use a region."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from ._mistakes import is_such

__all__ = ["DeathPolicy", "IfUnlinked", "Owner", "Terms", "Unlink"]

#: The reaction to the death of the last writer. A function gets a hold of the write lock.
DeathPolicy: TypeAlias = Literal["raise", "ignore"] | Callable[[Any], object]

#: The owner of trusted objects, beside this user and root: none, any user, or that user.
Owner: TypeAlias = Literal["me", "any"] | int

#: The attachment that removes the name, or the key, when it is closed.
Unlink: TypeAlias = Literal["never", "creator", "last"]

#: The reaction of a lock when the name, or the key, leads to its region no more.
IfUnlinked: TypeAlias = Literal["ignore", "raise"]


@dataclass(frozen=True, slots=True)
class Terms:
    """The options of one attachment, beside its size and type; checked.

    Raises:
        TypeError, ValueError: a field makes no sense, or two of them together.
    """

    readonly: bool = False
    owner: Owner = "me"
    lock_memory: bool = False
    on_owner_death: DeathPolicy = "raise"
    unlink: Unlink = "never"
    if_unlinked: IfUnlinked = "ignore"
    follow: bool = False  # attach to the region that replaces it

    def as_arguments(self) -> dict[str, Any]:
        """Return the arguments of `attach` that make the same terms."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __post_init__(self) -> None:
        _check_policy(self.on_owner_death, readonly=self.readonly)
        _check_owner(self.owner)
        _check_choice("unlink", self.unlink, Unlink)
        _check_choice("if_unlinked", self.if_unlinked, IfUnlinked)
        if self.unlink == "last" and self.readonly:
            raise ValueError(
                "unlink='last' needs a region without readonly=True: "
                "a read-only attachment cannot find out whether others are left"
            )


def _check_policy(policy: DeathPolicy, *, readonly: bool = False) -> None:
    """Check that `policy` is one.

    Raises:
        TypeError: neither a str nor a plain function. ValueError: an unknown str, or a
            function that could never write, as the region is read-only.
    """
    choices = "choose 'raise', 'ignore', or a function that takes the hold and repairs the data"
    if isinstance(policy, str):
        if policy not in ("raise", "ignore"):
            raise ValueError(f"unknown on_owner_death {policy!r}: {choices}")
        return
    if not callable(policy):
        raise TypeError(f"on_owner_death must not be {type(policy).__name__}: {choices}")
    if is_such(inspect.iscoroutinefunction, policy):
        raise TypeError(
            "on_owner_death must be a plain function: it runs under the write lock, "
            "also for threads that have no event loop"
        )
    if readonly:
        raise ValueError(
            "on_owner_death must be 'raise' or 'ignore' with readonly=True: "
            "a read-only attachment cannot repair the data"
        )


def _check_owner(owner: Any) -> None:
    is_id = isinstance(owner, int) and not isinstance(owner, bool) and owner >= 0
    if not is_id and owner not in ("me", "any"):
        raise ValueError(f"owner must be 'me', 'any' or a user's id, not {owner!r}")


def _check_choice(option: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        known = " or ".join(map(repr, get_args(choices)))
        raise ValueError(f"{option} must be {known}, not {value!r}")
