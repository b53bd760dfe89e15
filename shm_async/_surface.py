"""The methods of an open region: locks, snapshots, changes and memory.

Each method is a step or two over the parts of a region: its attachment, its lock table, its
watchers. _lifetime.py replaces and closes a region; _region.py makes it.
"""

from sys import getrefcount
from typing import TYPE_CHECKING, Any, overload

from ._facts import Facts
from ._failures import closed
from ._lock.deadlines import check_timeout
from ._lock.fast import ReadHold, WriteHold
from ._lock.statistics import Statistics
from ._lock.table import ALONE
from ._lock.transaction import Transaction
from ._memory import elements
from ._memory.proclocks import Holder, Kind
from ._native import snapshot_after, snapshot_before
from ._watch import holders
from ._watch.changes import Changes
from ._watch.snapshot import DISTURBED, copier, copy_undisturbed

if TYPE_CHECKING:
    import numpy
    from typing_extensions import Buffer

__all__ = ["Surface"]


class Surface(Facts):
    """The public methods of a Region that need it open."""

    __slots__ = ()

    # ---- locks -----------------------------------------------------------------

    # No `*` here: the interpreter looks up each default of a keyword-only argument in a dictionary,
    # which would be 3 % of a free lock.

    def read_lock(
        self,
        timeout: float | None = None,
        fast_acquire: bool = True,
        label: str | None = None,
    ) -> ReadHold:
        """Return a read lock for ``async with`` or ``with``: many readers, no writer.

        All attachments, in any process, use the same lock, and so do programs that use flock(2)
        on the object.

        Never blocks: the returned hold waits when it is entered or acquired.

        Args:
            timeout: seconds after which ``with`` gives up (LockTimeoutError). More than 1e9 (31
                years) means no timeout.
            fast_acquire: False makes ``async with`` yield once even if the lock is free, after
                it was granted, so that tasks that acquire it in a loop take turns.
            label: the purpose of the lock, such as "checkout": 1 to 100 printable characters.
                The warnings of `slow_hold` and `slow_wait`, `holders` and `statistics` show it,
                in this process alone. A lock with a label costs some microseconds more.

        It also decorates functions and coroutine functions: ``@region.read_lock()``.

        Raises:
            RegionClosedError: here or when it is acquired.
            OwnerDiedError: when it is acquired, if the last writer died during its write.
            ValueError, TypeError: `timeout` is not a number of seconds; `label` is not such a str.
        """
        table = self._table
        if label is not None:
            return table.labelled_read_hold(timeout, fast_acquire, self, label)
        hold = table.spare_read
        if hold is not None and timeout is None and fast_acquire:
            if getrefcount(hold) != ALONE:
                hold = table.spare_read = ReadHold(table, None, True, self)
            return hold
        return table.read_hold(timeout, fast_acquire, self)

    def write_lock(
        self,
        timeout: float | None = None,
        fast_acquire: bool = True,
        recover: bool = False,
        label: str | None = None,
    ) -> WriteHold:
        """Return the write lock for ``async with`` or ``with``: one holder at a time.

        Never blocks: the returned hold waits. Errors are those of `read_lock`, and one more.

        Args:
            timeout: seconds after which ``with`` gives up (LockTimeoutError).
            fast_acquire: False makes ``async with`` yield once even if the lock is free.
            recover: acquire the lock also if the last writer died during its write. Then
                `Hold.owner_died` is True, and only a clean end of its block makes the region
                sound again; after an exception the next holder learns of the death, too.
            label: the purpose of the lock, as for `read_lock`.

        Raises:
            PermissionError: the region was attached with ``readonly=True``.
        """
        table = self._table
        if recover:
            return table.recovery_hold(timeout, fast_acquire, self, label)
        if label is not None:
            return table.labelled_write_hold(timeout, fast_acquire, self, label)
        hold = table.spare_write
        if hold is not None and timeout is None and fast_acquire:
            if getrefcount(hold) != ALONE:
                hold = table.spare_write = WriteHold(table, None, True, self)
            return hold
        return table.write_hold(timeout, fast_acquire, self)

    def transaction(
        self,
        *,
        timeout: float | None = None,
        fast_acquire: bool = True,
        label: str | None = None,
    ) -> Transaction:
        """Return the write lock with a private copy, for ``async with`` or ``with``.

        The block writes to the copy; its clean end copies the changes back. After an
        exception, a cancellation or a crash in the block the region is as it was before.
        Snapshots see the old data until the end, too; `generation` changes only at the end.
        Never blocks: the returned transaction waits for the lock.

        Arguments and errors are those of `write_lock`.
        """
        return self._table.transaction(timeout, fast_acquire, self, label)

    def statistics(self) -> Statistics:
        """Return counters of this region's locks in this process, since it was opened or forked.

        Never blocks and raises nothing; works on a closed region, too. The counters are of one
        moment: other threads go on. A forked child counts from 0.
        """
        return self._table.ledger.sum()

    @property
    def slow_hold(self) -> float | None:
        """The seconds after which a hold of this process is logged, when it ends; None for never.

        The logger "shm_async" gives a warning that names the line that ended the hold.
        """
        return self._table.ledger.slow

    @slow_hold.setter
    def slow_hold(self, seconds: float | None) -> None:
        self._table.ledger.set_slow(check_timeout(seconds))

    @property
    def slow_wait(self) -> float | None:
        """The seconds after which a wait for a lock of this region is logged; None for never.

        The logger "shm_async" gives one warning for each wait, while it lasts. The warning names
        the waiting task or thread and its line, and the processes that hold the lock, this one
        with the lines of its tasks and threads. So it finds a wait that never ends, such as
        that for a task that holds the lock and awaits the waiter.

        Each event loop gives at most one warning in so many seconds, with the number of waiting
        tasks. A wait that has begun when this is set may be left out. It does not slow down a
        lock that is free.
        """
        slow = self._table.ledger.slow_wait
        return None if slow is None else slow.seconds

    @slow_wait.setter
    def slow_wait(self, seconds: float | None) -> None:
        self._table.ledger.slow_wait = holders.slow_wait(self._table, check_timeout(seconds))

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders of the lock, and after them its waiters.

        For this process it also lists the tasks that wait in the queue of an event loop, which
        the kernel does not know. There `Holder.where` gives the lines of tasks and threads, and
        `Holder.label` the label of the lock. Labels of other processes are not known.

        It also lists programs that use only flock(2). Takes no lock, so it works with
        ``readonly=True`` and never waits for the lock. It shows one moment, unless the kernel's
        list is longer than a page (60 locks on the host) and changes meanwhile. A call takes
        some 20 µs and stops all file locking of the host for that long, the first one for
        milliseconds. So use it for people and alarms, not in a loop. In a forked child it is
        the same.

        The kernel leaves out processes that this pid namespace cannot see: in a container, ()
        does not mean that no process outside has the lock. The waiters at the gate, behind the
        first one, have no pid. `Holder.since` is known for writers of this package in managed
        regions; any process that may write to the region can falsify it. After a resize by another
        process the answer is about the old object until the next lock.

        Raises:
            RegionClosedError: it is closed.
            OSError: ENOSYS, there is no /proc/locks to read.
        """
        return holders.holders(self._table)

    def locked(self) -> Kind | None:
        """Return the kind of lock that is held now: "write", "read", or None if it is free.

        It works as `holders` does: takes no lock, never waits for it, costs as much, and does not
        see processes that another pid namespace hides. Errors are those of `holders`. The answer
        may already be old, so do not base a decision on it: use the lock, or
        `Hold.acquire_nowait`.
        """
        return holders.locked(self._table)

    # ---- snapshots ---------------------------------------------------------------

    @overload
    def snapshot(self, *, into: None = None, timeout: float | None = None) -> bytes: ...
    @overload
    def snapshot(self, *, into: "Buffer", timeout: float | None = None) -> None: ...
    def snapshot(
        self, *, into: "Buffer | None" = None, timeout: float | None = None
    ) -> bytes | None:
        """Copy the data as it is at one moment.

        Takes no lock while no process writes: it costs two reads of the generation and a memcpy
        (0.4 µs for 64 bytes, 1.0 µs for 64 KiB), and does not delay writers. The data may change
        as soon as it returns; only the read lock prevents that. A raw region has no generation,
        so there it always takes the read lock.

        Blocks the thread in the read lock if a writer stays active for longer, or writers
        never pause. In an event loop use `snapshot_async`. Works in a forked child.

        It notices writers that use this package. A program that takes flock alone and then
        writes, or writes through `buffer`, leaves no mark: use the read lock against the
        former. Python's other threads wait while it copies, as for ``bytes(view)``.

        Args:
            into: a contiguous writable buffer of exactly `nbytes` bytes to copy into; its
                content after an exception is undefined. None: make a new bytes object.
            timeout: seconds after which a wait for the read lock ends (LockTimeoutError).

        Returns:
            The bytes, or None if they are in `into`.

        Raises:
            OwnerDiedError: the last writer died during its write; see `Region.create`.
            RegionReplacedError: it was resized; not with ``follow=True``.
            RegionNotFoundError: it was unlinked, with ``if_unlinked="raise"``.
            RegionClosedError: it is closed.
            RegionSizeError: the object was truncated.
            ValueError, TypeError: `into` does not fit.
        """
        opener = self._table.opener
        if opener is None:
            raise closed(self._name)
        copy = copier(into, opener.readable)
        glance = opener.snapshot
        if glance is not None:  # the usual case, written out for speed
            before = snapshot_before(glance)
            if before >= 0:
                data = copy()
                if snapshot_after(glance) == before:
                    return data
        data = copy_undisturbed(self._table, glance, copy)
        if data is DISTURBED:
            with self.read_lock(timeout=timeout) as view:
                return copier(into, view)()
        return data

    @overload
    async def snapshot_async(self, *, into: None = None) -> bytes: ...
    @overload
    async def snapshot_async(self, *, into: "Buffer") -> None: ...
    async def snapshot_async(self, *, into: "Buffer | None" = None) -> bytes | None:
        """Copy as `snapshot` does, but wait for the read lock, if it takes it, in the event loop.

        Cancellable; does not yield if it takes no lock. It does not have the plain name, as
        there is mostly nothing to await. The copy itself blocks the loop for a memcpy.
        Errors are those of `snapshot`.
        """
        opener = self._table.usable()
        copy = copier(into, opener.readable)
        data = copy_undisturbed(self._table, opener.snapshot, copy)
        if data is DISTURBED:
            async with self.read_lock() as view:
                return copier(into, view)()
        return data

    # ---- changes -----------------------------------------------------------------

    async def wait_changed(self, *, since: int | None = None) -> int:
        """Wait until a process has written, and return the new generation.

        A change is the end of a write lock, or of a transaction that changed something, in
        any process, thread or task that uses this package. Changes in quick succession are
        merged into one; the last one is never missed. The next change may begin before this
        returns; only a lock prevents that. It does not notice writes through `buffer`, or by a
        program that takes flock alone.

        Waits in the event loop, without a thread, on an inotify descriptor that all regions
        of the loop share. Cancellable, and yields at least once. The writer that ends the wait
        pays for the kernel's wake-up; other writers pay nothing. Works in a forked child.

        A region with ``readonly=True`` cannot ask writers for a wake-up. It looks 50 times a
        second instead, for all tasks of the loop together.

        Args:
            since: return at once if the region is beyond this generation, which an earlier call,
                or `generation`, has returned. None: wait for a change from now on.

        Returns:
            An even number. A write counts when it has ended.

        Raises:
            OwnerDiedError: the last writer died during its write; see `Region.create`. With
                "ignore" the death counts as the end of a lock, and a function repairs the data
                first.
            RegionReplacedError: it was resized, or was unlinked and the name leads to a new
                region. With ``follow=True`` that is a change: the region attaches to the new
                one, and returns that one's generation. An unlink alone ends no wait.
            RegionNotFoundError: it was unlinked, with ``if_unlinked="raise"``.
            RegionClosedError: also while waiting.
            RegionSizeError: the object was truncated.
            RegionFormatError: the region is not managed, so it has no generation.
            RuntimeError: the task holds a lock of the region, so no process could ever write.
            OSError: EMFILE, ENOSPC: the limits of inotify; the message names them.
            TypeError: `since` is not an int.
        """
        return await self._watchers.wait_changed(since)

    def changes(self, *, since: int | None = None) -> Changes:
        """Return the changes from now on: ``async for generation in region.changes()``.

        Never blocks. A step of the iteration waits in the event loop, and can be cancelled.

        Each step is a `wait_changed` since the step before. So a slow loop body sees all changes
        meanwhile as one, and a quick one may see each. A new region under the same name begins
        at 0 again, see `wait_changed`. The iteration never ends by itself. Any number of tasks
        may each have their own.

        Data that is read after this call, before the first step, misses no change.

        Args:
            since: begin with the changes after this generation, rather than from now on.

        Raises:
            RegionClosedError, RegionSizeError, RegionFormatError, TypeError: as `wait_changed`. A
                step raises all errors of `wait_changed`.
        """
        return self._watchers.changes(since, self)

    # ---- memory ----------------------------------------------------------------

    @property
    def buffer(self) -> memoryview:
        """The data, without a lock, as a new typed memoryview; read-only if the region is.

        Use it for single loads and stores that need no lock, or while the lock is held elsewhere.
        """
        return self._table.usable().writable[:]

    def numpy(self) -> "numpy.ndarray[Any, Any]":
        """Return the data, without a lock and without a copy, as a NumPy array of its shape.

        It keeps the memory mapped, also after `close`; read-only if the region is. NumPy cuts a
        stored value off and does not clamp it, even in a uint8_clamped region. Never blocks.
        Needs the extra ``shm_async[numpy]``.

        Raises:
            RegionClosedError: it is closed.
            ImportError: NumPy is not installed.
        """
        return elements.numpy_array(self._table.usable().writable)
