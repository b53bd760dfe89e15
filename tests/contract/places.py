"""Places to try the contract in: how one member takes the lock, and who contends for it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from anyio.from_thread import BlockingPortal, start_blocking_portal
from members import AsyncWith, Awaiting, Blocking, Flock, Member, Process, Task, Thread, With
from patient import BACKENDS

from shm_async import Region

THREADS = {"with": With, "acquire_blocking": Blocking}
TASKS = {
    f"{way} on {loop}": (user, loop)
    for way, user in {"async with": AsyncWith, "acquire": Awaiting}.items()
    for loop in BACKENDS
}
WAYS = [*THREADS, *TASKS]

#: The task is of the same event loop as the member whose lock it contends for, if that has one.
CONTENDERS = ["task", "thread", "another loop", "another region", "process", "flock"]


class Place:
    """One way to take a region's lock. All who were made here are closed together."""

    def __init__(self, region: Region, way: str, stack: ExitStack) -> None:
        self.region = region
        self.way = way
        self.in_loop = way in TASKS
        self._stack = stack
        self._loop: BlockingPortal | None = None

    def member(self) -> Member:
        """One more that takes the lock in this way: in the same loop, or in another thread."""
        if not self.in_loop:
            return self._close_later(Thread(THREADS[self.way](self.region)))
        user, loop = TASKS[self.way]
        self._loop = self._loop or start_loop(loop, self._stack)
        return self._close_later(Task(user(self.region), self._loop))

    def contender(self, kind: str) -> Member:
        return self._close_later(self._contenders()[kind]())

    def _contenders(self) -> dict[str, Callable[[], Member]]:
        name, region = self.region.name, self.region
        return {
            "task": self._task,
            "thread": lambda: Thread(With(region)),
            "another loop": lambda: Task(AsyncWith(region), start_loop("asyncio", self._stack)),
            "another region": self._of_another_region,
            "process": lambda: Process(name),
            "flock": lambda: Flock(name),
        }

    def _task(self) -> Member:
        loop = self._loop or start_loop("asyncio", self._stack)
        return Task(AsyncWith(self.region), loop)

    def _of_another_region(self) -> Member:
        second = Region.attach(self.region.name, dtype="uint64")
        return Thread(With(self._stack.enter_context(second)))

    def _close_later(self, member: Member) -> Member:
        return self._stack.enter_context(closing(member))


def start_loop(name: str, stack: ExitStack) -> BlockingPortal:
    """An event loop in a thread of its own."""
    return stack.enter_context(start_blocking_portal(*BACKENDS[name]))


@contextlib.contextmanager
def place_in(region: Region, way: str) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(region, way, stack)
