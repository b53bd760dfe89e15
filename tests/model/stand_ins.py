"""Stand-ins for the kernel, the event loop and its tasks, that do one step when told to."""

import errno
from collections.abc import Callable

from shm_async._lock.request import NOT_NOW
from shm_async._native import BEGUN, BUSY, CALLED_OFF, DIED, MARK, NOT_YET, RECOVER

FREE, SHARED, EXCLUSIVE = 0, 1, 2


class Kernel:
    """One OFD of ours and one of a rival; the request of the waiting thread."""

    def __init__(self) -> None:
        self.mode = self.rival = FREE
        self.writing = False
        self.died = False  # the last writer did, and nobody has put right what it left
        self.unsound = False  # the one who writes is about to, or fails
        self.dead_pid, self.dead_start, self.dead_ns = 2**31, 1, 0
        self.request: int | None = None
        self.cancelled = False
        self.ended: int | None = None
        self.version = 0  # how often somebody has begun to write
        self.fd, self.reads, self.writes, self.longest = 99, 0, 0, 0  # what a Tally looks at

    def grants(self, mode: int) -> bool:
        return self.rival == FREE or mode == self.rival == SHARED

    def step(self) -> None:
        """The waiting thread gets as far as it can."""
        if self.request is None or self.ended is not None:
            return
        if self.cancelled:
            self.ended = CALLED_OFF
        elif self.grants(self.request):
            self.mode, self.ended = self.request, 0

    # what cohort.py calls

    def bind(self) -> None:
        pass

    def take(self, mode: int, manner: int = MARK) -> int:
        assert self.mode == FREE
        assert self.request is None, "the OFD is the waiting thread's"
        if not self.grants(mode):
            return BUSY
        self.mode = mode
        code = self.begin(manner) if mode == EXCLUSIVE else self.sound()
        if code:
            self.mode = FREE
        return code

    def upgrade(self) -> int:
        assert self.mode == SHARED
        assert not self.died
        if self.rival == SHARED:
            self.mode = FREE
            return BUSY
        self.mode = EXCLUSIVE
        return self.begin(MARK)

    def release(self) -> int:
        assert self.mode != FREE
        assert self.request is None
        self.end()
        self.mode = FREE
        return 0

    def sound(self) -> int:
        assert not self.writing
        return DIED if self.died else 0

    def begin(self, manner: int) -> int:
        assert self.mode == EXCLUSIVE
        assert not self.writing
        if self.died and manner != RECOVER:
            return DIED
        self.unsound = self.died
        self.writing = True
        self.version += 1
        return 0

    def end(self) -> int:
        if self.writing and not self.unsound:
            self.died = False
        self.writing = self.unsound = False
        return 0

    def pass_on(self, manner: int, others_first: bool) -> int:
        self.end()
        if self.mode != EXCLUSIVE:
            return -errno.EPERM
        return BUSY if others_first else self.begin(manner)

    def downgrade(self) -> int:
        assert self.mode == EXCLUSIVE
        self.end()
        self.mode = SHARED
        return 0

    def start(self, exclusive: bool) -> int:
        assert self.mode == FREE
        assert self.request is None
        self.request, self.cancelled = EXCLUSIVE if exclusive else SHARED, False
        return 0

    def cancel(self) -> int:
        if self.ended == 0:
            return 1
        self.cancelled = True
        return 0

    def finish(self, manner: int) -> int:
        if self.ended is None:
            return NOT_YET
        result, self.ended, self.request = self.ended, None, None
        if result == 0 and self.mode == EXCLUSIVE and manner != NOT_NOW:
            return BEGUN if self.begin(manner) == 0 else 0
        return result


class Waiter:
    """A task that is parked; the machine resumes it when it was woken."""

    def __init__(self, exclusive: bool, task: object, manner: int) -> None:
        self.exclusive, self.task = exclusive, task
        self.manner = manner
        self.since, self.label = 0.0, None
        self.upgrading = False
        self.granted = self.woken = self.cancelled = False
        self.error: Exception | None = None

    def __await__(self):
        yield

    @property
    def wakeup(self) -> "Waiter":
        return self

    def can_wake(self) -> bool:
        return not self.cancelled and not self.woken

    def wake(self) -> bool:
        if not self.can_wake():
            return False
        self.woken = True
        return True


class Loop:
    def __init__(self) -> None:
        self.callback = None
        self.waiters: dict[object, Waiter] = {}
        self.native, self.tasks = None, {}
        self.timers: list[tuple[float, Callable[[], None]]] = []  # seconds left, and what then

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append((seconds, callback))

    def time_passes(self, seconds: float) -> None:
        """Call what is due."""
        timers, self.timers = self.timers, []
        for left, callback in timers:
            if left > seconds:
                self.timers.append((left - seconds, callback))
            else:
                callback()

    def waiter(self, exclusive: bool, task: object, manner: int = MARK) -> Waiter:
        waiter = self.waiters[task] = Waiter(exclusive, task, manner)
        return waiter

    def watch(self, _fd: int, callback) -> None:
        self.callback = callback

    def unwatch(self, _fd: int) -> None:
        self.callback = None


class Task:
    def __init__(self, exclusive: bool, manner: int = MARK) -> None:
        self.exclusive = exclusive  # as what it is inside, or comes in
        self.manner = manner
        self.state = "new"
        self.coroutine = None
        self.seen = 0  # the version that it reads


def wants_to_write(task: Task) -> bool:
    return task.exclusive or task.state == "upgrading"


class Cancelled(BaseException):
    pass
