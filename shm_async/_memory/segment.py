"""The contract of a segment: the POSIX object or System V segment behind a region."""

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from .. import _native
from .mapping import Mapping

__all__ = ["Prepare", "Segment", "Whither"]

#: The target of a segment's name, or key: the segment itself, nothing, or another segment.
Whither: TypeAlias = Literal["here", "nowhere", "elsewhere"]


class Segment(Protocol):
    """Memory that the kernel keeps under a name or a key, and that this process uses."""

    #: Its name in messages: the name, or the key as `0x%08x`.
    name: str

    #: Bytes, when it was opened.
    size: int

    @property
    def key(self) -> int | None:
        """The System V key; None: it has a name."""
        ...

    @property
    def id(self) -> int | None:
        """The System V id; None: it has a name."""
        ...

    # ---- the object that carries its lock: itself, or its companion

    @property
    def fd(self) -> int:
        """A descriptor of that object. It never takes a flock itself.

        So a forked child may keep it without keeping a lock. The locks' own descriptors are
        opened from it. The program may close it without our knowledge, and open another file
        that gets its number. So read this property again before each use of the number.

        Raises:
            OSError: EBADFD, it was closed by the program, and cannot be opened again.
        """
        ...

    def has_descriptor(self) -> bool:
        """Tell whether there is a descriptor, and it is still ours."""
        ...

    @property
    def mark(self) -> _native.Identity:
        """The mark by which its descriptor is recognised."""
        ...

    @property
    def identity(self) -> tuple[int, int]:
        """The st_dev and st_ino of that object, once there was a descriptor."""
        ...

    def lock_identity(self) -> tuple[int, int] | None:
        """Return st_dev and st_ino of that object; None: there is none yet."""
        ...

    def cookie(self) -> int:
        """Return the cookie of a System V segment's companion; 0: it has none."""
        ...

    def path(self) -> str:
        """Return the path that opens the object again if there is no /proc."""
        ...

    def lock_size(self, mapped: int) -> int:
        """Return the bytes that the object must have while `mapped` bytes of it are mapped."""
        ...

    # ---- its memory

    def whole(self, mapped: int) -> bool:
        """Tell whether it still has the first `mapped` bytes: else touching them raises SIGBUS."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, or fewer if it ends before."""
        ...

    def map(self, size: int, *, readonly: bool) -> Mapping:
        """Map its first `size` bytes."""
        ...

    def reserve(self, size: int) -> None:
        """Have the kernel reserve the first `size` bytes, if its creator did not."""
        ...

    # ---- its name, and its end

    def name_leads(self) -> Whither:
        """Return where its name, or key, leads now."""
        ...

    def linked(self) -> bool:
        """Tell whether its name, or key, still leads to it."""
        ...

    def unlink(self) -> None:
        """Remove its name, or key. Works on a closed segment, too.

        Raises:
            RegionNotFoundError: it was removed already. PermissionError: it is another user's.
        """
        ...

    def attachments(self) -> int | None:
        """Return the number of its mappings in all processes; None: the kernel does not tell."""
        ...

    def is_last(self) -> bool:
        """Tell whether no other attachment is left, for a caller that is about to close it."""
        ...

    def renew(self, mapping: Mapping) -> None:
        """Make a forked child count as an attachment of its own, not as its parent's."""
        ...

    def close(self) -> None:
        """Close the descriptor, and stop being present, even if views keep the memory mapped."""
        ...


#: Maps a new segment, before another process can see it.
Prepare = Callable[[Segment], Mapping]
