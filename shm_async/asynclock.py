"""`async with`: the cohort of one event loop, its queue, and its one waiting thread.

All coroutines of a loop share one OFD and decide among themselves, in one FIFO,
who of them is inside; the kernel decides between cohorts, threads and
processes. The protocol:

* **Enter.** With the cohort idle and nobody at the gate, try flock without waiting: one
  call, no await. A reader joins readers that are inside if nobody is queued or at the
  gate. Everyone else queues.
* **Ask.** When nobody is inside and somebody is queued, the waiting thread (in C)
  is asked to get the lock for the head of the queue. At most one request is
  under way. It goes through the gate (gate.c), blocks in flock and reports by an
  eventfd that the loop watches.
* **Admit.** The lock being the cohort's and nobody inside, the head of the queue goes
  in: one writer, or all readers up to the next writer. Whoever would find the mark of a
  dead writer, and did not ask to recover, is told and goes away instead.
* **Leave.** The last one out hands the lock to the queue without the kernel, for a
  bounded time; then, or with an empty queue, releases it.
* **Convert.** A reader that is alone here converts the kernel's lock in place. If another
  process reads too, the kernel takes the lock away, and the reader queues like any writer.
  With other readers of this loop inside, it goes on reading and stands first in the queue
  until they have left; a second one that wants the same lets go, or both would wait for ever.
* **Withdraw.** A cancelled waiter leaves the queue. If it was the last, the
  request is called off; what had been granted by then is passed on or released.

Everything here runs in the loop's own thread, between two awaits, so it needs no lock.
"""

from collections import deque
from collections.abc import Callable
from threading import get_ident
from time import monotonic

from ._native import (
    BUSY,
    CALLED_OFF,
    MARK,
    NOT_YET,
    LockHandle,
    lock_begin,
    lock_bind,
    lock_downgrade,
    lock_end,
    lock_mode,
    lock_release,
    lock_sound,
    lock_try_manner,
    lock_try_nested,
    lock_try_shared,
    lock_upgrade,
    waiter_cancel,
    waiter_fd,
    waiter_finish,
    waiter_start,
)
from .filelock import FORKED, Ending, LockCloser, Opener, closed, failure, report_slow
from .loops import NO_TASK, Loop, Task, Waiter
from .statistics import Tally

#: Hand-overs inside the cohort before other processes get their chance. A hand-over is
#: about ten times cheaper than a grant by the kernel, so 64 make the grant's share small.
MAX_PASSES = 64

#: Seconds for which a cohort may keep the kernel's lock while others could be waiting:
#: the bound where holds are long.
MAX_KEEP = 0.002

#: Seconds for which readers may go on joining readers while nobody is seen at the gate:
#: for the sake of programs that use flock without the gate, and cannot be seen.
MAX_SHARE = 0.05

EXCLUSIVE = 2  # of lock_mode

#: try_upgrade: another process reads, too, and the kernel has taken our lock away.
LOST = 1

#: In `writer` while there is none.
NOBODY: Task = None


class Cohort:
    """The coroutines of one event loop at one region's lock.

    Invariants, between any two awaits:

    * `writer` is the task inside that writes, or NOBODY; `readers` counts holds by task.
      Never both.
    * Somebody inside <=> the OFD holds the kernel's lock, in the matching mode.
    * `asking` (a request is under way, or being called off) => nobody is inside.
    * `queue` not empty => somebody is inside, or `asking`.
    * A waiter that is `upgrading` is first in `queue`, and one of at least two `readers`.
    * `idle` <=> none of these: the next one may try the kernel at once.
    """

    __slots__ = (
        "asking",
        "closer",
        "ended",
        "gate",
        "handle",
        "idle",
        "kept_since",
        "loop",
        "max_share",
        "name",
        "native",
        "opener",
        "passes",
        "queue",
        "readable",
        "readers",
        "tally",
        "tasks",
        "thread",
        "watching",
        "writable",
        "writer",
    )

    def __init__(self, opener: Opener, loop: Loop) -> None:
        self.handle: LockHandle
        self.closer: LockCloser | None  # dropped to close the OFD
        self.handle, self.closer = opener.open()
        lock_bind(self.handle)
        self.opener = opener
        self.readable = opener.readable  # the data that the lock guards; who is inside gets
        self.writable = opener.writable  # a slice of it
        self.tally: Tally = opener.ledger.open(self.handle)
        self.loop = loop
        self.native = loop.native
        self.tasks = loop.tasks
        self.thread = get_ident()
        self.name = opener.mapping.name
        self.gate = opener.gate  # gate[0]: somebody of another process or thread waits there
        self.max_share = MAX_KEEP if self.gate is None else MAX_SHARE
        self.writer: Task = NOBODY
        self.readers: dict[Task, int] = {}
        self.queue: deque[Waiter] = deque()
        self.asking = False
        self.idle = True
        self.ended: Ending | None = None  # once it is over: why nobody can come in any more
        self.watching = -1  # the eventfd, while the loop watches it
        self.kept_since = 0.0  # for MAX_KEEP, see _kept_for; 0.0: not known
        self.passes = 0  # since then, for MAX_PASSES

    def current_task(self) -> Task:
        """The task of our loop that runs; None in a callback, or if another loop runs."""
        try:
            return self.tasks[self.native]
        except KeyError:
            return None

    # ---- enter ----------------------------------------------------------------

    def try_enter(self, exclusive: bool, task: Task, manner: int = MARK) -> int:
        """Go in if that needs no waiting. Returns 0, BUSY, FORKED or another -errno."""
        return self.try_write(task, manner) if exclusive else self.try_read(task)

    def try_write(self, task: Task, manner: int) -> int:
        if not self.idle:
            return BUSY
        code = self._try(lock_try_manner, manner)
        if code == 0:
            self.idle = False
            self.writer = task
            self.kept_since = 0.0
        return code

    def try_read(self, task: Task) -> int:
        readers = self.readers
        if self.idle:
            code = self._try(lock_try_shared)
            if code == 0:
                self.idle = False
                readers[task] = 1
                self.kept_since = 0.0
            return code
        return self.try_join(task) if readers else BUSY

    def try_join(self, task: Task) -> int:
        """Read together with the readers that are inside. Returns 0 or BUSY."""
        readers = self.readers
        if task in readers:  # a nested read must not wait for its own task
            readers[task] += 1
        elif not self.queue and self._may_join():
            readers[task] = 1
        else:
            return BUSY
        self.tally.joined += 1
        return 0

    def try_nested(self, task: Task) -> int:
        """Share the lock past the gate, for a task whose thread shares it already."""
        if not self.idle:
            return BUSY
        code = self._try(lock_try_nested)
        if code == 0:
            self.idle = False
            self.readers[task] = 1
            self.kept_since = 0.0
        return code

    def _may_join(self) -> bool:
        """Whether a new reader may share the lock that readers of this loop hold."""
        if self.gate is not None and self.gate[0]:
            return False
        if not self.kept_since:
            self._kept_for()
        return monotonic() - self.kept_since < self.max_share

    def _kept_for(self) -> float:
        """For how long others may have been kept out, in seconds.

        An uncontended grant does not look at the clock: the first one who
        queues or joins does.
        """
        now = monotonic()
        if not self.kept_since:
            self.kept_since = now
            self.passes = 0
        return now - self.kept_since

    def _try(self, call: Callable[..., int], *arguments: int) -> int:
        try:
            return call(self.handle, *arguments)
        except BaseException:
            self.take_back()
            raise

    def take_back(self) -> None:
        """An exception (Ctrl-C) came while the idle cohort took the lock: be idle again."""
        if self.thread != get_ident():
            return
        if lock_mode(self.handle):
            lock_release(self.handle)
        self.writer = NOBODY
        self.readers.clear()
        self.idle = self.ended is None

    async def enter(self, exclusive: bool, task: Task, manner: int = MARK) -> None:
        """Wait for the lock in the queue.

        Cancellable: whoever is cancelled holds nothing and has left the queue.
        """
        self._refuse_to_wait_for_oneself(exclusive, task)
        if self.ended is not None:
            raise self.ended(self.name)
        self._kept_for()
        waiter = self.loop.waiter(exclusive, task)
        waiter.manner = manner
        self.queue.append(waiter)
        self.idle = False
        start = self.tally.wait_begins()
        try:
            if not self._occupied() and not self.asking:
                self._ask()
            await waiter.wait()
        except BaseException:
            self.tally.cancelled += 1
            if waiter.granted:
                self.leave(task)
            else:
                self._withdraw(waiter)
            raise
        finally:
            self.tally.wait_ended(start)
        if waiter.error is not None:
            self.tally.cancelled += 1
            raise waiter.error

    def _occupied(self) -> bool:
        return self.writer is not NOBODY or bool(self.readers)

    def has(self, task: Task) -> bool:
        """Whether that task is inside."""
        return self.writer is task or task in self.readers

    def conflicts(self, exclusive: bool) -> bool:
        """Whether who is inside keeps a newcomer of that kind out."""
        return self._occupied() if exclusive else self.writer is not NOBODY

    def _refuse_to_wait_for_oneself(self, exclusive: bool, task: Task) -> None:
        if task is NO_TASK:
            return
        if self.writer is task:
            raise RuntimeError(
                f"this task holds the write lock of region {self.name!r} already and would "
                "wait for itself: use the view that it has, or release it first"
            )
        if exclusive and task in self.readers:
            raise RuntimeError(
                f"this task holds a read lock of region {self.name!r} and would wait for "
                "itself: upgrade() the lock that it has, or release it first"
            )

    # ---- ask ------------------------------------------------------------------

    def _ask(self) -> None:
        """Have the waiting thread get the lock for the head of the queue.

        Whoever cannot even be waited for (no thread, no descriptor left) is told so.
        """
        while self.queue:
            try:
                self._watch()
                self.tally.requests += 1
                code = waiter_start(self.handle, self.queue[0].exclusive)
                error = failure(code, self.name) if code else None
            except OSError as caught:
                error = caught
            if error is None:
                self.asking = True
                return
            self._fail_head(error)
        self._rest()

    def _watch(self) -> None:
        if self.watching < 0:
            fd = waiter_fd(self.handle, self.name)
            self.loop.watch(fd, self._request_ended)
            self.watching = fd

    def _unwatch(self) -> None:
        if self.watching >= 0:
            self.loop.unwatch(self.watching)
            self.watching = -1

    def _request_ended(self) -> None:
        """The eventfd is readable: the request was granted, called off or refused."""
        code = waiter_finish(self.handle)
        if code in (NOT_YET, FORKED):  # FORKED: closed since
            return
        self.asking = False
        if code == 0:
            self.kept_since = monotonic()
            self.passes = 0
            self._admit()
        elif code == CALLED_OFF:
            self._ask()
        else:
            self._fail_head(failure(code, self.name))
            self._ask()

    def _fail_head(self, error: Exception) -> None:
        if self.queue:
            waiter = self.queue.popleft()
            waiter.error = error
            waiter.wake()

    def _rest(self) -> None:
        """Nobody is inside, queued or asking."""
        self._unwatch()
        self.idle = self.ended is None
        if self.ended is not None:
            self.closer = None

    # ---- admit ----------------------------------------------------------------

    def _admit(self) -> None:
        """The OFD has the lock and nobody is inside: let the head of the queue in."""
        while self.queue:
            if not self.queue[0].exclusive:
                if self._admit_readers():
                    return
            elif lock_mode(self.handle) != EXCLUSIVE:  # it was asked for by a reader
                self._release()
                self._ask()
                return
            elif self._admit_writer():
                return
        self._release()
        self._rest()

    def _admit_writer(self) -> bool:
        waiter = self.queue[0]
        if not waiter.can_wake():
            self.queue.popleft()
            return False
        code = lock_begin(self.handle, waiter.manner)
        if code:
            self._fail_head(failure(code, self.name, self.handle))
            return False
        self.queue.popleft()
        waiter.wake()
        waiter.granted = True
        self.writer = waiter.task
        return True

    def _admit_readers(self) -> bool:
        """Let in the readers at the head of the queue, all of them together.

        Each is told if the last writer has died, and then there is nobody to let in.
        """
        code = lock_sound(self.handle)
        if code:
            while self.queue and not self.queue[0].exclusive:
                self._fail_head(failure(code, self.name, self.handle))
            return False
        if lock_mode(self.handle) == EXCLUSIVE:
            lock_downgrade(self.handle)
        while self.queue and not self.queue[0].exclusive:
            waiter = self.queue.popleft()
            if waiter.wake():
                waiter.granted = True
                self.readers[waiter.task] = self.readers.get(waiter.task, 0) + 1
                self.tally.joined += 1
        return bool(self.readers)

    # ---- leave ----------------------------------------------------------------

    def leave(self, task: Task) -> None:
        """Go out; the last one hands the lock on or releases it."""
        if self.writer is not NOBODY:
            self.leave_write()
        else:
            self.leave_read(task)

    def leave_write(self) -> None:
        if self.queue:
            self.writer = NOBODY
            self._hand_over()
            return
        try:
            code = lock_release(self.handle)
        finally:
            self.writer = NOBODY
            self.idle = True
        if code or self.ended:
            self.left(code)

    def leave_read(self, task: Task) -> None:
        readers = self.readers
        if readers[task] > 1:
            readers[task] -= 1
            self._others_read_on()
            return
        if len(readers) > 1:
            del readers[task]
            self._others_read_on()
            return
        if self.queue:
            del readers[task]
            self._hand_over()
            return
        try:
            code = lock_release(self.handle)
        finally:
            del readers[task]
            self.idle = True
        if code or self.ended:
            self.left(code)

    def left(self, code: int) -> None:
        """The lock was released with that result, and it is not the usual one."""
        self._rest()
        if code > 0:
            report_slow(self.handle, self.name)
        elif code < 0 and code != FORKED:
            raise failure(code, self.name)

    def _hand_over(self) -> None:
        """Nobody is inside any more, the lock is still ours, and somebody is queued."""
        if self._may_pass():
            self.tally.hand_overs += 1
            if lock_end(self.handle) > 0:
                report_slow(self.handle, self.name)
            self._admit()
        else:
            self._release()
            self._ask()

    def _may_pass(self) -> bool:
        """Whether those in the queue may have the lock before other processes get a chance."""
        self.passes += 1
        return self.passes <= MAX_PASSES and self._kept_for() < MAX_KEEP

    def _release(self) -> None:
        if lock_release(self.handle) > 0:
            report_slow(self.handle, self.name)

    # ---- convert --------------------------------------------------------------

    def try_upgrade(self, task: Task) -> int:
        """Turn a reader into the writer if that needs no waiting.

        Returns 0, BUSY (it still reads, and so do others here), LOST (it reads no more,
        as others do elsewhere), or another -errno: it still reads.
        """
        if self.readers != {task: 1}:
            return BUSY
        code = lock_upgrade(self.handle)
        if code == 0:
            self.readers.clear()
            self.writer = task
        elif code == BUSY:
            self.readers.clear()
            if self.queue:
                self._ask()
            else:
                self._rest()
            return LOST
        return code

    async def upgrade(self, task: Task) -> bool:
        """Turn a reader into the writer. True: nobody can have written in between.

        Cancellable: whoever is cancelled holds nothing, neither does it after an error.
        """
        code = self.try_upgrade(task)
        if code == 0:
            return True
        if code == BUSY and not (self.queue and self.queue[0].upgrading):
            return await self._upgrade_in_turn(task)
        if code != LOST:
            self.leave_read(task)
        if code not in (LOST, BUSY):
            raise failure(code, self.name, self.handle)
        await self.enter(True, task)
        return False

    async def _upgrade_in_turn(self, task: Task) -> bool:
        """Read on until nobody else here does, with the next turn secured."""
        waiter = self.loop.waiter(True, task)
        waiter.upgrading = True
        self.queue.appendleft(waiter)
        start = self.tally.wait_begins()
        try:
            await waiter.wait()
        except BaseException:
            self.tally.cancelled += 1
            if waiter.granted:
                self.leave_write()
            else:
                self._withdraw(waiter)
                self._stop_reading(waiter)
            raise
        finally:
            self.tally.wait_ended(start)
        if waiter.error is not None:
            self.tally.cancelled += 1
            self._stop_reading(waiter)
            raise waiter.error
        return waiter.upgrading

    def _stop_reading(self, waiter: Waiter) -> None:
        if waiter.upgrading:  # else the kernel has taken its lock away
            self.leave_read(waiter.task)

    def _others_read_on(self) -> None:
        """A reader has left, others are inside: perhaps just the one who wants to write."""
        if not self.queue:
            return
        head = self.queue[0]
        # one that was cancelled leaves by itself
        if head.upgrading and self.readers == {head.task: 1} and head.can_wake():
            self._convert(head)

    def _convert(self, waiter: Waiter) -> None:
        """The head of the queue is the only reader here: make it the writer."""
        code = lock_upgrade(self.handle)
        if code == BUSY:  # somebody elsewhere reads: the lock is gone
            waiter.upgrading = False  # a writer like any other, and still the first
            self.readers.clear()
            self._ask()
            return
        self.queue.popleft()
        waiter.wake()
        if code:
            waiter.error = failure(code, self.name, self.handle)
        else:
            waiter.granted = True
            self.readers.clear()
            self.writer = waiter.task

    def downgrade(self) -> int:
        """Turn the writer into a reader, and let readers in that wait. Returns 0 or -errno."""
        code = lock_downgrade(self.handle)
        if code < 0:
            return code
        if code:
            report_slow(self.handle, self.name)
        self.readers[self.writer] = 1
        self.writer = NOBODY
        self.tally.joined += 1
        if self.queue and not self.queue[0].exclusive and self._may_join():
            self._admit_readers()
        return 0

    # ---- withdraw and close ---------------------------------------------------

    def _withdraw(self, waiter: Waiter) -> None:
        if waiter not in self.queue:  # the cohort was closed or dropped it
            return
        was_head = waiter is self.queue[0]
        self.queue.remove(waiter)
        if self._occupied():
            if was_head and self.readers and self.queue:
                self._admit_readers()  # those who stood behind a writer
        elif not self.queue and waiter_cancel(self.handle):
            self._request_ended()  # it had been granted already

    def close(self, why: Ending = closed) -> None:
        """Refuse all who wait or come; the OFD is closed as soon as nobody is inside."""
        self.ended = why
        self.idle = False
        while self.queue:
            self._fail_head(why(self.name))
        if not self._occupied():
            self.abandon()

    def abandon(self) -> None:
        """Let go of everything: of the lock, too, if somebody is inside who will never leave."""
        self.ended = self.ended or closed
        self.idle = False
        self.queue.clear()
        self._unwatch()
        self.asking = False
        self.closer = None  # calls off the request, joins the thread, closes the OFD
