"""`async with`: the cohort of one event loop, its queue, and its one waiting thread.

All coroutines of a loop share one OFD. The cohort decides which of them holds the lock, in one
FIFO; the kernel decides between cohorts, threads and processes. A task is *inside* while it
holds the lock. The protocol:

* **Enter.** If the cohort is idle and no waiter is at the gate, try flock without waiting: one
  call, no await. A reader joins readers that are inside if no task is queued and no waiter is
  at the gate. Every other task queues.
* **Ask.** When no task is inside and one is queued, ask the waiting thread (in C) to acquire
  the lock for the head of the queue. At most one request is under way. It passes the gate
  (gate.c), blocks in flock and reports by an eventfd that the loop watches.
* **Admit.** When the cohort has the lock and no task is inside, admit the head of the queue:
  one writer, or all readers up to the next writer. A waiter that finds the mark of a dead
  writer, and did not ask to recover, gets the error instead.
* **Leave.** The last task hands the lock on to the queue without the kernel, for a bounded
  time; then, or with an empty queue, it releases the lock.
* **Convert.** A reader that is alone here converts the kernel's lock in place. If another
  process reads too, the kernel takes the lock away, and the reader queues like any writer.
  With other readers of this loop inside, it reads on and stands first in the queue until they
  have left. A second one that converts releases its lock, or both would wait for ever.
* **Withdraw.** A cancelled waiter leaves the queue. If it was the last one, the request is
  called off; a lock that was granted meanwhile is handed on or released.

Everything here runs in the loop's own thread, between two awaits, so it needs no lock.
"""

from collections.abc import Coroutine
from time import monotonic
from typing import Any

from .._failures import closed
from .._native import (
    BUSY,
    MARK,
    lock_begin,
    lock_downgrade,
    lock_end,
    lock_mode,
    lock_pass,
    lock_release,
    lock_sound,
    lock_upgrade,
)
from .loops import Loop, Task, Waiter
from .members import MAX_KEEP, MAX_KEEP_ALONE, MAX_PASSES, NOBODY, Members
from .ofd import EXCLUSIVE, FORKED, LET_GO, Ending, Opener, failure, report_slow
from .owners import owner_of
from .request import BEGUN, CALLED_OFF, Request


class Cohort(Members):
    """The coroutines of one event loop that hold or await one region's lock.

    Invariants, between any two awaits, and those of `Members`:

    * A request is under way, or being called off => no task is inside.
    * `queue` not empty => a task is inside, or a request is under way.
    * A waiter that is `upgrading` is first in `queue`, and one of at least two `readers`.
    """

    __slots__ = ()

    def __init__(self, opener: Opener, loop: Loop) -> None:
        super().__init__(opener, loop)
        self.request = Request(self, self.handle, loop, self.name, self.tally)

    # ---- enter ----------------------------------------------------------------

    def enter(self, exclusive: bool, task: Task, manner: int = MARK) -> Coroutine[Any, Any, None]:
        """Return the wait for the lock, unless it would never end."""
        self.refuse_to_wait_for_oneself(exclusive, owner_of(task))
        if self.ended is not None:
            raise self.ended(self.name)
        return self.queue_up(exclusive, task, manner)

    async def queue_up(self, exclusive: bool, task: Task, manner: int = MARK) -> None:
        """Wait for the lock in the queue.

        Cancellable: a cancelled task holds nothing and has left the queue.
        """
        tally, waiter = self.tally, self.new_waiter(exclusive, task, manner)
        tally.contended += 1
        try:
            self.queue.append(waiter)
            self.idle = False
            if not self.share_until:
                self.kept_for()
            if self.opener.ledger.slow_wait is not None:
                self.alarm.wait_begins(self)
            if self.readers:
                if not exclusive:
                    self.let_in_later(waiter)
            elif self.writer is NOBODY and not self.request.under_way:
                self._ask()
            await waiter.wakeup
        except BaseException:
            tally.cancelled += 1
            if waiter.granted:
                self.leave(task)
            else:
                self.withdraw(waiter)
            raise
        finally:
            tally.wait_ended(waiter.since, waiter.label)
        if waiter.error is not None:
            tally.cancelled += 1
            raise waiter.error

    # ---- ask ------------------------------------------------------------------

    def _ask(self) -> None:
        """Have the waiting thread get the lock for the head of the queue.

        If the request cannot start (no thread or descriptor left), the waiter gets the error.
        """
        while self.queue:
            error = self.request.start(self.queue[0].exclusive)
            if error is None:
                return
            self.fail_head(error)
        self.rest()

    def request_ended(self, code: int) -> None:
        """Handle the end of the request: it was granted, called off or refused."""
        if code in (BEGUN, 0):
            self.share_until = monotonic() + self.max_share
            self.passes = 0
            if code == BEGUN and self.queue:
                self._enter_head()
            else:
                self._admit()
        elif code == CALLED_OFF:
            self._ask()
        else:
            self.fail_head(failure(code, self.name))
            self._ask()

    # ---- admit ----------------------------------------------------------------

    def _admit(self) -> None:
        """Admit the head of the queue. The OFD has the lock and no task is inside."""
        while self.queue:
            if not self.queue[0].exclusive:
                if self._admit_readers():
                    return
            elif lock_mode(self.handle) != EXCLUSIVE:  # a reader had requested it
                self.release()
                self._ask()
                return
            elif self._admit_writer():
                return
        self.release()
        self.rest()

    def _admit_writer(self) -> bool:
        waiter = self.queue[0]
        if not waiter.can_wake():
            self.queue.popleft()
            return False
        code = lock_begin(self.handle, waiter.manner)
        if code:
            self.fail_head(failure(code, self.name, self.handle))
            return False
        self._enter_head()
        return True

    def _enter_head(self) -> None:
        """Let the head of the queue write, as its mark is set. A cancelled one leaves again.

        The grant is noted before anything can fail: an exception (Ctrl-C) finds somebody inside.
        """
        waiter = self.queue[0]
        self.writer = waiter.task
        waiter.granted = True
        waiter.wake()
        if self.queue:  # a signal handler may have closed the region
            self.queue.popleft()

    def _admit_readers(self) -> bool:
        """Admit the readers at the head of the queue, all of them together.

        If the last writer has died, each gets the error, and none is admitted.
        """
        if lock_mode(self.handle) == EXCLUSIVE:
            lock_downgrade(self.handle)
        code = lock_sound(self.handle)
        if code:
            while self.queue and not self.queue[0].exclusive:
                self.fail_head(failure(code, self.name, self.handle))
            return False
        while self.queue and not self.queue[0].exclusive:
            self.admit_reader(self.queue.popleft())
        return bool(self.readers)

    # ---- leave ----------------------------------------------------------------

    def give_up(self, task: Task, before: int) -> None:
        """End an attempt to acquire or convert: keep no more locks inside than before it."""
        if self.inside(task) > before:
            self.leave(task)

    def leave(self, task: Task) -> None:
        """Leave the lock; the last task hands it on or releases it."""
        if self.writer is not NOBODY:
            self.leave_write()
        else:
            self.leave_read(task)

    def leave_write(self) -> None:
        if self.queue:
            self.hand_over()
            return
        try:
            code = lock_release(self.handle)
        finally:
            self.writer = NOBODY
            self.be_idle()
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
            self.hand_over()
            return
        try:
            code = lock_release(self.handle)
        finally:
            del readers[task]
            self.be_idle()
        if code or self.ended:
            self.left(code)

    def finish_leaving(self, task: Task, count: int) -> None:
        """Complete the fast release of a reader that an exception (Ctrl-C) has interrupted.

        `count` is the number of locks that the task had inside before; 0: not known yet.
        """
        if task in self.readers and count in (0, self.readers[task]):
            self.leave_read(task)
        elif not self.occupied():
            self.take_back()

    def left(self, code: int) -> None:
        """Handle the unusual result of a release."""
        self.rest()
        if code > 0:
            report_slow(self.handle, self.name)
        elif code < 0 and code != FORKED:
            raise failure(code, self.name)

    def begin_again(self) -> None:
        """Ask anew if an exception (Ctrl-C) in a step has left the lock with no task inside."""
        if not (self.occupied() or self.request.under_way):
            if lock_mode(self.handle):
                lock_release(self.handle)
            self._ask()

    def hand_over(self) -> None:
        """Hand the lock on, or release it: after the bounds a waiter at the gate comes first."""
        try:
            self.writer = NOBODY
            self.passes += 1
            kept = monotonic() - self.share_until + self.max_share  # known, as a task queued
            late = self.passes > MAX_PASSES or kept > MAX_KEEP
            head = self.queue[0]
            if head.exclusive and kept < MAX_KEEP_ALONE and head.can_wake():
                code = lock_pass(self.handle, head.manner, late)
                if code == 0:
                    self.tally.hand_overs += 1
                    self._enter_head()
                    return
            elif late:
                self.release()
                self._ask()
                return
            else:
                code = lock_end(self.handle)
            if code > 0:
                report_slow(self.handle, self.name)
            if code == BUSY or (late and code > 0):
                lock_release(self.handle)
                self._ask()
            else:  # after an error, too: the descriptor may be somebody else's by now
                self._admit()
                self.tally.hand_overs += self.occupied()
        except BaseException:
            self.begin_again()
            raise

    # ---- convert --------------------------------------------------------------

    def try_upgrade(self, task: Task) -> int:
        """Turn a reader into the writer if that needs no waiting.

        Return 0, BUSY (it still reads, and so do others here), LET_GO (it reads no more, as
        another process or thread reads), or another -errno: it still reads.
        """
        if self.readers != {task: 1}:
            return BUSY
        try:
            code = lock_upgrade(self.handle)
        finally:
            self._note_upgrade(task)
        return LET_GO if code == BUSY else code

    def _note_upgrade(self, task: Task) -> None:
        """Count as the kernel left it, also if an exception (Ctrl-C) came right after the call."""
        mode = lock_mode(self.handle)
        self.idle = False
        if mode == EXCLUSIVE:
            self.readers.clear()
            self.writer = task
        elif not mode:
            self.readers.clear()
            self._ask()

    def _others_read_on(self) -> None:
        """Convert the head of the queue if it is now the only reader: another one has left."""
        if not self.queue:
            return
        head = self.queue[0]
        # a cancelled one leaves by itself
        if head.upgrading and self.readers == {head.task: 1} and head.can_wake():
            self._convert(head)

    def _convert(self, waiter: Waiter) -> None:
        """Make the head of the queue, the only reader here, the writer."""
        code = lock_upgrade(self.handle)
        if code == BUSY:  # another process or thread reads: the lock is gone
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
        """Turn the writer into a reader, and admit readers that wait. Return 0 or -errno."""
        code = lock_downgrade(self.handle)
        if code < 0:
            return code
        if code:
            report_slow(self.handle, self.name)
        self.idle = False
        self.readers[self.writer] = 1
        self.writer = NOBODY
        self.tally.joined += 1
        if self.queue and not self.queue[0].exclusive and self.may_join():
            self._admit_readers()
        return 0

    # ---- withdraw and close ---------------------------------------------------

    def withdraw(self, waiter: Waiter) -> None:
        """Take a cancelled waiter out of the queue."""
        if waiter not in self.queue:  # the cohort was closed or dropped it
            return
        was_head = waiter is self.queue[0]
        self.queue.remove(waiter)
        if self.occupied():
            if was_head and self.readers and self.queue:
                self._admit_readers()  # the readers behind the cancelled writer
        elif not self.queue:
            self.request.call_off()

    def close(self, why: Ending = closed) -> None:
        """Refuse all waiters and newcomers; close the OFD as soon as no task is inside."""
        self.ended = why
        self.idle = False
        while self.queue:
            self.fail_head(why(self.name))
        if not (self.occupied() or lock_mode(self.handle)):  # a signal handler may close it
            self.abandon()
