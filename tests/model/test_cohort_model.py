"""The cohort against a simple reference, without a kernel: hypothesis looks for a bad order.

The kernel, the waiting thread, the event loop and the clock are stand-ins that do one step when
told to. So every interleaving of arrivals, grants, conversions, cancels, leaves, deaths, recoveries
and a close can come up.
"""

import contextlib
import gc
from collections.abc import Coroutine
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from stand_ins import EXCLUSIVE, FREE, SHARED, Cancelled, Kernel, Loop, Task, wants_to_write

from shm_async import OwnerDiedError, RegionClosedError
from shm_async._lock import cohort, conversion, members, request
from shm_async._lock.statistics import LabelBook, Tally
from shm_async._native import BUSY, DIED, MARK, RECOVER

pytestmark = [pytest.mark.once, pytest.mark.long]


def stand_ins(machine: "CohortMachine") -> dict[str, object]:
    """For each call into C, what the kernel of the model does."""
    return {
        "lock_bind": Kernel.bind,
        "lock_try_shared": lambda kernel: kernel.take(SHARED),
        "lock_spin_shared": lambda kernel: kernel.take(SHARED),
        "lock_spin_manner": lambda kernel, manner: kernel.take(EXCLUSIVE, manner),
        "lock_try_manner": lambda kernel, manner: kernel.take(EXCLUSIVE, manner),
        "lock_release": Kernel.release,
        "lock_begin": Kernel.begin,
        "lock_sound": Kernel.sound,
        "lock_end": Kernel.end,
        "lock_pass": lambda kernel, manner, polite: kernel.pass_on(
            manner, bool(polite and machine.gate[0])
        ),
        "lock_downgrade": Kernel.downgrade,
        "lock_upgrade": Kernel.upgrade,
        "lock_mode": lambda kernel: kernel.mode,
        "waiter_fd": lambda kernel, name: 99,
        "waiter_start": Kernel.start,
        "waiter_cancel": Kernel.cancel,
        "waiter_finish": Kernel.finish,
        "monotonic": lambda: machine.now,
    }


class CohortMachine(RuleBasedStateMachine):
    @initialize(readers=st.integers(0, 3), dead=st.booleans())
    def start(self, readers: int, dead: bool = False) -> None:
        gc.collect()  # coroutines that other tests left must not end among the stand-ins
        self.now = 1.0
        self.patches = contextlib.ExitStack()
        for module in (cohort, members, request):
            there = {name: how for name, how in stand_ins(self).items() if hasattr(module, name)}
            self.patches.enter_context(mock.patch.multiple(module, **there))
        self.kernel, self.loop, self.gate = Kernel(), Loop(), [0]
        opener = SimpleNamespace(
            open=lambda: (self.kernel, None),
            ledger=SimpleNamespace(
                open=lambda handle: Tally(handle, LabelBook(), "x"), slow_wait=None
            ),
            gate=self.gate,
            readable=None,
            writable=None,
            mapping=SimpleNamespace(name="x"),
        )
        self.cohort = cohort.Cohort(opener, self.loop)
        # the reference: who waits, in order, and who is inside. One may be both: it upgrades
        self.queue: list[Task] = []
        self.inside: list[Task] = []
        self.doomed: list[Task] = []  # of the queue: cancelled, but have not run yet
        self.closed = False
        self.coroutines: list[Coroutine[None, None, object]] = []
        if dead:  # all of them wait, and one who died is found
            self.kernel.rival = EXCLUSIVE
        for _ in range(readers):
            self.arrive(exclusive=False)
        if dead:
            self.rival_dies()

    def teardown(self) -> None:
        if not hasattr(self, "patches"):
            return
        try:
            self.everybody_gets_in_and_out()
        finally:
            for coroutine in self.coroutines:  # left by an example that was broken off
                with contextlib.suppress(Exception):
                    coroutine.close()
            self.patches.close()

    # ---- what tasks do ----------------------------------------------------------

    def start_coroutine(self, task: Task, coroutine: Coroutine[None, None, object]) -> None:
        task.coroutine = coroutine
        self.coroutines.append(coroutine)
        self.resume(task)

    def resume(self, task: Task, error: BaseException | None = None) -> None:
        """Run a task until it waits, is inside, or has failed."""
        try:
            task.coroutine.throw(error) if error else task.coroutine.send(None)
        except StopIteration as result:
            if result.value:
                assert self.kernel.version == task.seen + 1, "somebody wrote before the upgrade"
            self.entered(task)
        except Cancelled:
            self.gone(task, "cancelled")
        except RegionClosedError:
            assert self.closed
            self.gone(task, "refused")
        except OwnerDiedError:
            assert self.kernel.died
            assert not (task.exclusive and task.manner == RECOVER)
            self.gone(task, "told")

    def entered(self, task: Task) -> None:
        assert not self.kernel.died or task.manner == RECOVER, "it was not told"
        if task.state == "upgrading":
            task.exclusive = True
        task.state = "inside"
        task.seen = self.kernel.version
        if task not in self.inside:
            self.inside.append(task)

    def gone(self, task: Task, state: str) -> None:
        task.state = state
        if task in self.inside:
            self.inside.remove(task)

    def at_ease(self, *, exclusive: bool | None = None) -> list[Task]:
        """Those who are inside and do not wait for more."""
        return [
            task
            for task in self.inside
            if task.state == "inside" and exclusive in (None, task.exclusive)
        ]

    @precondition(lambda self: not self.closed)
    @rule(exclusive=st.sampled_from([False, False, True]), recovers=st.booleans())
    def arrive(self, exclusive: bool, recovers: bool = False) -> None:
        task = Task(exclusive, RECOVER if exclusive and recovers else MARK)
        code = self.cohort.try_enter(exclusive, task, task.manner)
        if code == 0:
            assert not self.waiting(), "a newcomer passed the queue"
            self.entered(task)
        elif code == DIED:
            assert self.kernel.died
            assert task.manner == MARK
        else:
            assert code == BUSY
            self.queue.append(task)
            task.state = "waiting"
            self.start_coroutine(task, self.cohort.enter(exclusive, task, task.manner))

    @precondition(lambda self: self.at_ease())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.at_ease()))
        self.inside.remove(task)
        if task.manner == RECOVER and data.draw(st.booleans()):
            self.kernel.unsound = False  # a clean end
        self.cohort.leave(task)
        self.wake_up()

    @precondition(lambda self: not self.closed and self.at_ease(exclusive=False))
    @rule(data=st.data())
    def upgrade(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.at_ease(exclusive=False)))
        first = not any(each.state == "upgrading" and each in self.inside for each in self.queue)
        others = [each for each in self.inside if each is not task]
        task.state = "upgrading"
        self.start_coroutine(task, conversion.upgrade(self.cohort, task))
        if task.state == "upgrading":
            assert others or self.kernel.mode == FREE
            if others and first:
                self.queue.insert(0, task)
            else:
                self.inside.remove(task)
                self.queue.append(task)
        self.wake_up()

    @precondition(lambda self: self.at_ease(exclusive=True))
    @rule()
    def downgrade(self) -> None:
        [task] = self.inside
        self.kernel.unsound = False  # a clean end
        task.manner = MARK
        assert self.cohort.downgrade() == 0
        task.exclusive = False
        task.seen = self.kernel.version
        self.wake_up()

    def waiting(self) -> list[Task]:
        return [task for task in self.queue if task not in self.doomed]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.waiting()))
        self.loop.waiters[task].cancelled = True
        self.doomed.append(task)

    @precondition(lambda self: self.doomed)
    @rule()
    def a_cancelled_task_runs(self) -> None:
        task = self.doomed.pop()
        self.queue.remove(task)
        self.resume(task, Cancelled())
        self.wake_up()

    @precondition(lambda self: len(self.queue) > 0 and self.at_ease())
    @rule(data=st.data())
    def leave_and_cancel_before_anybody_runs(self, data: st.DataObject) -> None:
        """A grant and a cancel of the same task in one turn of the loop."""
        task = data.draw(st.sampled_from(self.at_ease()))
        self.inside.remove(task)
        self.cohort.leave(task)
        for each in [each for each in self.queue if self.loop.waiters[each].granted]:
            if data.draw(st.booleans()):
                self.queue.remove(each)
                self.resume(each, Cancelled())
        self.wake_up()

    def wake_up(self) -> None:
        """Run whoever was woken, in the order of the queue."""
        for task in [task for task in self.inside if task.state == "upgrading"]:
            if not self.loop.waiters[task].upgrading:  # the kernel took its lock away
                self.inside.remove(task)
        progress = True
        while progress:
            woken = [task for task in self.queue if self.loop.waiters[task].woken]
            progress = bool(woken)
            for task in woken:
                position = self.queue.index(task)
                ahead = [each for each in self.queue[:position] if each not in self.doomed]
                if not self.closed:
                    assert not (wants_to_write(task) and ahead), "a writer overtook"
                    assert not any(map(wants_to_write, ahead)), "a reader overtook a writer"
                self.queue.remove(task)
                self.resume(task)

    # ---- what the others do -------------------------------------------------------

    @rule(mode=st.sampled_from([SHARED, EXCLUSIVE]))
    def rival_tries(self, mode: int) -> None:
        ours = self.kernel.mode
        if self.kernel.rival == FREE and (ours == FREE or ours == mode == SHARED):
            self.kernel.rival = mode
            self.kernel.version += mode == EXCLUSIVE

    @rule()
    def rival_leaves(self) -> None:
        self.kernel.rival = FREE

    @precondition(lambda self: self.kernel.rival == EXCLUSIVE)
    @rule()
    def rival_dies(self) -> None:
        self.kernel.rival = FREE
        self.kernel.died = True

    @rule()
    def waiting_thread_runs(self) -> None:
        self.kernel.step()

    @precondition(lambda self: self.kernel.ended is not None and self.loop.callback)
    @rule()
    def loop_hears_of_it(self) -> None:
        self.loop.callback()
        self.wake_up()

    @rule(seconds=st.sampled_from([0.0001, 0.003, 0.06]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.loop.time_passes(seconds)
        self.wake_up()

    @rule()
    def somebody_comes_to_the_gate_or_goes(self) -> None:
        self.gate[0] = 1 - self.gate[0]

    @precondition(lambda self: not self.closed)
    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        if really == 7:
            self.closed = True
            self.cohort.close()
            self.wake_up()

    # ---- what must be so at any time -------------------------------------------------

    @invariant()
    def the_cohort_says_what_is_so(self) -> None:
        if not hasattr(self, "cohort"):
            return
        writers = [task for task in self.inside if task.exclusive]
        assert not writers or len(self.inside) == 1, "a writer is not alone"
        ours, kernel = self.cohort, self.kernel
        assert ours.writer is (writers[0] if writers else None)
        assert set(ours.readers) == set(self.inside) - set(writers)
        queued = [waiter.task for waiter in ours.queue]
        assert [task for task in queued if task not in self.doomed] == self.waiting()
        assert ours.idle == (not (self.inside or queued or ours.request.under_way or self.closed))
        assert kernel.writing == bool(writers)
        if self.inside:
            assert kernel.mode == (EXCLUSIVE if writers else SHARED)
            assert kernel.rival == FREE or kernel.mode == kernel.rival == SHARED
            assert not ours.request.under_way
        elif not self.closed:
            assert ours.request.under_way == (kernel.request is not None)
            assert ours.request.under_way or kernel.mode == FREE, "held, and nobody is inside"
        if self.waiting():
            assert self.inside or ours.request.under_way, "nobody will ever wake them"

    def everybody_gets_in_and_out(self) -> None:
        """Left to themselves, all who wait get in."""
        self.kernel.rival = FREE
        while self.doomed:
            self.a_cancelled_task_runs()
        for _ in range(2 * len(self.queue) + 4):
            while self.at_ease():
                task = self.at_ease()[-1]
                self.inside.remove(task)
                self.cohort.leave(task)
                self.wake_up()
                self.the_cohort_says_what_is_so()
            self.kernel.step()
            if self.kernel.ended is not None and self.loop.callback:
                self.loop.callback()
                self.wake_up()
        assert not self.inside
        assert not self.queue, "nobody woke them"
        assert self.closed or self.cohort.idle
        assert self.closed or self.kernel.mode == FREE


CohortMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


TestCohort = pytest.mark.timeout(120)(CohortMachine.TestCase)
