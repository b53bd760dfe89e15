"""A group: writers of one loop that run one after another, and are stored together."""

from time import monotonic

from .schema import FENCES
from .site import Site
from .ticket import Ticket

__all__ = ["Group"]

#: Blocks that are stored together, at most; each has a fencing token of its own.
MAX_GROUP = FENCES

#: Seconds after which a group is stored.
MAX_KEEP = 0.005


class Group:
    """Writers that are stored together. `data` is what they have left so far."""

    __slots__ = ("blocks", "data", "fence", "members", "since", "token")

    def __init__(self, site: Site, fence: int) -> None:
        self.data = site.data
        self.token: bytes | None = site.token  # None: of data that is not stored yet
        self.fence = fence
        self.blocks = 0
        self.members: list[Ticket] = []  # that have ended and changed something
        self.since = monotonic()

    def time_left(self) -> float:
        return max(0.0, self.since + MAX_KEEP - monotonic())

    def has_room(self) -> bool:
        return not self.blocks or (self.blocks < MAX_GROUP and self.time_left() > 0)

    def add(self, ticket: Ticket) -> None:
        self.data = bytes(ticket.data)
        self.token = None
        self.members.append(ticket)
