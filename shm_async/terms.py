"""Terms: how a region is to be used, as `create`, `attach` and `open` are told."""

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from .recovery import OnOwnerDeath, check_policy

__all__ = ["IfUnlinked", "Owner", "Terms", "Unlink"]

#: Whose objects are trusted: mine and root's, or anybody's.
Owner: TypeAlias = Literal["me", "any"]

#: Who removes the name, or the key, when a region is closed.
Unlink: TypeAlias = Literal["never", "creator", "last"]

#: What a lock does when the name, or the key, leads to its region no more.
IfUnlinked: TypeAlias = Literal["ignore", "raise"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What one attachment was asked for, beside what it looks like; checked.

    Raises:
        TypeError, ValueError: a field makes no sense, or two of them together.
    """

    readonly: bool = False
    owner: Owner = "me"
    lock_memory: bool = False
    on_owner_death: OnOwnerDeath = "raise"
    unlink: Unlink = "never"
    if_unlinked: IfUnlinked = "ignore"
    follow: bool = False  # go over to what replaces it

    def as_arguments(self) -> dict[str, Any]:
        """What `attach` makes the same terms of."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __post_init__(self) -> None:
        check_policy(self.on_owner_death, readonly=self.readonly)
        _check_choice("owner", self.owner, Owner)
        _check_choice("unlink", self.unlink, Unlink)
        _check_choice("if_unlinked", self.if_unlinked, IfUnlinked)
        if self.unlink == "last" and self.readonly:
            raise ValueError(
                "unlink='last' needs a region that may be written: "
                "who only reads cannot find out whether others are left"
            )


def _check_choice(option: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        known = " or ".join(map(repr, get_args(choices)))
        raise ValueError(f"{option} must be {known}, not {value!r}")
