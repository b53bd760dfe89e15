"""The tasks of one event loop that hold the lock, and acquiring it without waiting."""

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import get_ident
from time import monotonic
from typing import ClassVar

from .._failures import closed
from .._native import (
    BUSY,
    MARK,
    LockHandle,
    lock_bind,
    lock_mode,
    lock_release,
    lock_spin_manner,
    lock_spin_shared,
    lock_try_manner,
    lock_try_nested,
    lock_try_shared,
)
from .loops import NO_TASK, Loop, Task, Waiter, runs_another_loop
from .ofd import Ending, LockCloser, Opener, report_slow
from .owners import HANDED_ON, Loose, owner_of
from .request import NOT_NOW, Request
from .slow_wait import Alarm, SlowWait
from .statistics import Tally

__all__ = ["MAX_KEEP", "MAX_KEEP_ALONE", "MAX_PASSES", "NOBODY", "SOLE", "Members"]

#: Hand-overs inside the cohort before other processes get a chance. A hand-over is about
#: ten times cheaper than a grant by the kernel, so after 64 the grant's share is small.
MAX_PASSES = 64

#: Seconds for which a cohort may keep the kernel's lock while others could be waiting. This
#: bound counts if holds are long.
MAX_KEEP = 0.002

#: Seconds for handing over while no waiter is at the gate: a flock without it cannot be seen.
MAX_KEEP_ALONE = 0.01

#: Seconds for which readers may go on joining readers while no waiter is seen at the gate: a
#: program that uses flock without the gate cannot be seen.
MAX_SHARE = 0.05

#: The gate of a region without a control page: nobody is seen there.
NO_GATE = b"\0"

#: The value of `writer` while there is none.
NOBODY: Task = None

#: A value of `idle`, false as well: one task is inside, and may leave by the shortest way.
SOLE: None = None


class Members:
    """The tasks of one event loop that are inside, and the OFD that has the kernel's lock for them.

    Invariants, between any two awaits:

    * `writer` is the task inside that writes, or NOBODY; `readers` counts holds by task.
      Never both.
    * A task is inside <=> the OFD holds the kernel's lock, in the matching mode.
    * `idle` <=> no task is inside or queued, and no request is under way: the next task may try
      the kernel at once.
    * `idle` is SOLE => a block is inside that was entered as fast.py spells it out; since then no
      task has joined, queued or converted the lock, and the cohort has not ended: so the block
      may end as fast.py spells it out, too.
    * `idle` or SOLE => `share_until` is 0.0.
    """

    __slots__ = (
        "__weakref__",
        "alarm",
        "closer",
        "ended",
        "gate",
        "handle",
        "idle",
        "loop",
        "max_share",
        "name",
        "native",
        "new_waiter",
        "opener",
        "passes",
        "queue",
        "readable",
        "readers",
        "request",
        "share_until",
        "tally",
        "tasks",
        "thread",
        "writable",
        "writer",
    )

    in_loop: ClassVar[bool] = True
    request: Request  # for the kernel's lock; the cohort makes it

    def __init__(self, opener: Opener, loop: Loop) -> None:
        self.handle: LockHandle
        self.closer: LockCloser | None  # dropped to close the OFD
        self.handle, self.closer = opener.open()
        lock_bind(self.handle)
        self.opener = opener
        self.readable = opener.readable  # the data that the lock guards; a holder gets a slice
        self.writable = opener.writable
        self.tally: Tally = opener.ledger.open(self.handle)
        self.loop = loop
        self.native = loop.native
        self.new_waiter = loop.waiter
        self.tasks = loop.tasks
        self.thread = get_ident()
        self.name = opener.mapping.name
        self.gate = opener.gate or NO_GATE  # gate[0]: another process or thread waits there
        self.max_share = MAX_SHARE if opener.gate else MAX_KEEP
        self.writer: Task = NOBODY
        self.readers: dict[Task, int] = {}
        self.queue: deque[Waiter] = deque()
        self.tally.queue = self.queue
        self.idle: bool | None = True
        self.ended: Ending | None = None  # once it has ended: makes the error for newcomers
        # share_until: when `max_share` is over, so that readers join no more. 0.0: not known, see
        # kept_for. Less max_share it is the time since when others are kept out, for MAX_KEEP.
        self.share_until = 0.0
        self.passes = 0  # hand-overs since that time, for MAX_PASSES
        self.alarm = Alarm()  # for waits that last too long

    def is_foreign(self) -> bool:
        """Tell whether the caller may not use it, as it runs in another thread or event loop."""
        try:
            if self.thread == get_ident() and self.tasks[self.native] is not None:
                return False
        except KeyError:
            pass
        if self.loop.is_over():
            return False
        return self.thread != get_ident() or runs_another_loop(self.native)

    def current_task(self) -> Task:
        """Return the running task of our loop; None in a callback, or if another loop runs."""
        try:
            return self.tasks[self.native]
        except KeyError:
            return None

    # ---- enter ----------------------------------------------------------------

    def try_enter(
        self, exclusive: bool, task: Task, manner: int = MARK, *, spin: bool = False
    ) -> int:
        """Take the lock if that needs no waiting. Return 0, BUSY, FORKED or another -errno."""
        return self.try_write(task, manner, spin) if exclusive else self.try_read(task, spin)

    def try_write(self, task: Task, manner: int, spin: bool = False) -> int:
        if not self.idle:
            return BUSY
        code = self._try(lock_try_manner, manner)
        if code == BUSY and spin:
            code = self._try(lock_spin_manner, manner)
        if code == 0:
            self.idle = False
            self.writer = task
        return code

    def try_read(self, task: Task, spin: bool = False) -> int:
        readers = self.readers
        if self.idle:
            code = self._try(lock_try_shared)
            if code == BUSY and spin:
                code = self._try(lock_spin_shared)
            if code == 0:
                self.idle = False
                readers[task] = 1
            return code
        return self.try_join(task, readers.get(task, 0)) if readers else BUSY

    def try_join(self, task: Task, before: int) -> int:
        """Read together with the readers that are inside. Return 0 or BUSY.

        `before` is the number of locks that the task has inside.
        """
        if before:  # a nested read must not wait for its own task
            self.readers[task] = before + 1
        elif (not self.queue and self.may_join()) or self.may_read_already(owner_of(task)):
            self.readers[task] = 1
        else:
            return BUSY
        self.idle = False
        self.tally.joined += 1
        return 0

    def may_read_already(self, task: Task) -> bool:
        """Tell whether one of the readers is that task, or may be: see owners.py."""
        return task in self.readers or any(
            type(reader) is Loose and reader.may_belong_to(task) for reader in self.readers
        )

    def is_loose(self) -> bool:
        """Tell whether one of the readers acquired its lock without a block."""
        return any(type(reader) is Loose for reader in self.readers)

    def try_nested(self, task: Task) -> int:
        """Share the lock past the gate, for a task whose thread shares it already."""
        if not self.idle:
            return BUSY
        code = self._try(lock_try_nested)
        if code == 0:
            self.idle = False
            self.readers[task] = 1
        return code

    def may_join(self) -> bool:
        """Tell whether a new reader may share the lock that readers of this loop hold."""
        if self.gate[0]:
            return False
        if not self.share_until:
            self.kept_for()
        return monotonic() < self.share_until

    def kept_for(self) -> float:
        """Return for how long others may have been kept out, in seconds.

        An uncontended grant does not read the clock. The first task that queues or joins does.
        """
        now = monotonic()
        if not self.share_until:
            self.idle = False
            self.share_until = now + self.max_share
            self.passes = 0
        return now - self.share_until + self.max_share

    def _try(self, call: Callable[..., int], *arguments: int) -> int:
        try:
            return call(self.handle, *arguments)
        except BaseException:
            self.take_back()
            raise

    def admit_reader(self, waiter: Waiter) -> None:
        """Let a reader in that has waited. The OFD has the lock, and no task writes."""
        if waiter.wake():
            waiter.granted = True
            self.readers[waiter.task] = self.readers.get(waiter.task, 0) + 1
            self.tally.joined += 1

    def let_in_later(self, waiter: Waiter) -> None:
        """Have a reader that waits for readers admitted, in case that they stay for long."""
        if self.is_loose():
            self.loop.call_later(HANDED_ON, partial(self._let_in, waiter))
        if self.queue[0] is waiter and self.gate is not NO_GATE:
            self._let_head_in_later(waiter)

    def _let_in(self, waiter: Waiter) -> None:
        """Admit it if one of the locks inside may be its own."""
        if waiter in self.queue and self.is_loose():
            self.queue.remove(waiter)
            self.admit_reader(waiter)

    def _let_head_in_later(self, waiter: Waiter) -> None:
        self.loop.call_later(MAX_SHARE, partial(self._let_head_in, waiter))

    def _let_head_in(self, waiter: Waiter) -> None:
        """Admit it and the readers behind it if they wait for readers of this loop alone.

        A writer that cannot be seen has had its chance: those inside stay for longer.
        """
        queue = self.queue
        if not (self.readers and queue and queue[0] is waiter):
            return
        if self.gate[0]:
            self._let_head_in_later(waiter)  # he who stands there may go away
            return
        while queue and not queue[0].exclusive:
            self.admit_reader(queue.popleft())

    # ---- leave ----------------------------------------------------------------

    def release(self) -> None:
        """Release the kernel's lock, and report a slow hold. No task is inside."""
        if lock_release(self.handle) > 0:
            report_slow(self.handle, self.name)

    def be_idle(self) -> None:
        """Let the next task try the kernel at once, unless the cohort has ended."""
        self.share_until = 0.0
        self.idle = self.ended is None

    def take_back(self) -> None:
        """Be idle again after an exception (Ctrl-C) while the idle cohort took the lock."""
        if self.thread != get_ident():
            return
        if lock_mode(self.handle):
            lock_release(self.handle)
        self.writer = NOBODY
        self.readers.clear()
        self.be_idle()

    def rest(self) -> None:
        """Be idle: no task is inside or queued, and no request is under way."""
        self.request.rest()
        self.be_idle()
        if self.ended is not None:
            self.closer = None

    # ---- end ------------------------------------------------------------------

    def outlive_its_loop(self) -> None:
        """Keep the lock for the tasks inside until they release it, from any thread."""
        self.ended = self.ended or closed
        self.idle = False
        self.queue.clear()  # tasks of a loop that has ended
        self.request.rest()

    def abandon(self) -> None:
        """Drop the queue, the request and the OFD. No task is inside."""
        self.ended = self.ended or closed
        self.idle = False
        self.queue.clear()
        self.request.rest()
        self.closer = None  # calls off the request, joins the thread, closes the OFD

    # ---- wait -----------------------------------------------------------------

    def fail_head(self, error: Exception) -> None:
        """End the wait of the head of the queue, if there is one, with that error."""
        if self.queue:
            waiter = self.queue.popleft()
            waiter.error = error
            waiter.wake()

    def set_alarm(self) -> None:
        """Have the wait that begins now reported if it lasts too long."""
        if self.opener.ledger.slow_wait is not None:
            self.alarm.wait_begins(self)

    def slow_wait(self) -> SlowWait | None:
        """Return the settings for reports of slow waits; None: no reports."""
        return self.opener.ledger.slow_wait

    def refuse_to_wait_for_oneself(self, exclusive: bool, task: Task) -> None:
        """Raise RuntimeError if a block of that task has the lock: it would wait for itself."""
        if task is NO_TASK:
            return
        if self.writer is task:
            raise RuntimeError(
                f"this task holds the write lock of region {self.name!r} already and would "
                "wait for itself: use the view that it has, or release the lock first"
            )
        if exclusive and task in self.readers:
            raise RuntimeError(
                f"this task holds a read lock of region {self.name!r} and would wait for "
                "itself: upgrade() the lock that it has, or release it first"
            )

    def manner_of_next(self) -> int:
        """Return in what manner the head of the queue will begin to write, if it will."""
        head = self.queue[0] if self.queue else None
        return head.manner if head is not None and head.exclusive and head.can_wake() else NOT_NOW

    # ---- facts ----------------------------------------------------------------

    def occupied(self) -> bool:
        return self.writer is not NOBODY or bool(self.readers)

    def inside(self, task: Task) -> int:
        """Return the number of locks that the task has inside."""
        return self.readers.get(task, 0) + (self.writer is task)

    def has(self, task: Task) -> bool:
        """Tell whether that task is inside."""
        return self.writer is task or task in self.readers

    def conflicts(self, exclusive: bool) -> bool:
        """Tell whether the tasks inside exclude a newcomer of that kind."""
        return self.occupied() if exclusive else self.writer is not NOBODY
