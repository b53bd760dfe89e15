"""The workers of stress.py: processes of every kind that use one region at random.

A worker works until the deadline, finishes what it began, says so, stays until all others
have finished, too (so that its end frees nothing that it failed to release), and then
proves that it leaves nothing behind.
"""

import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import itertools
import mmap
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
from history import Event, Kind
from stress_actors import (
    HOLD,
    LENGTH,
    LOOKS,
    Actor,
    Settings,
    Wish,
    Worker,
)
from stress_kernel import descriptors, flock_rows
from stress_tasks import AsyncioActor, TaskActor
from stress_threads import ThreadActor

from shm_async import OwnerDiedError, Region, RegionClosedError
from shm_async._lock.cohort import Cohort

CROWDS, THREADS = (1, 2, 6, 16), 3  # coroutines of a loop, threads of a process
FLOOD = 6  # coroutines


# ---- roles ---------------------------------------------------------------------------------


async def crowd(
    worker: Worker, region: Region, kind: type[TaskActor] = AsyncioActor, queue: int = 1
) -> None:
    """Some coroutines, or one, in one loop."""
    async with anyio.create_task_group() as group:
        for _ in range(worker.dice.choice(CROWDS)):
            group.start_soon(kind(worker, queue).work, region)


async def one(worker: Worker, region: Region, kind: type[TaskActor] = AsyncioActor) -> None:
    """One coroutine alone in its process, which knows what must not be held when it gave up."""
    actor = kind(worker, 1)
    actor.cutting = 0.8
    await actor.work(region, alone=True)


def in_threads(*targets: Callable[[], None]) -> None:
    """Run each in a thread of its own; an exception in one of them ends the process."""

    def run(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threads = [threading.Thread(target=run, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def asyncio_crowd(worker: Worker) -> None:
    with worker.attach() as region:
        anyio.run(crowd, worker, region)
        worker_is_done(worker)


def uvloop_crowd(worker: Worker) -> None:
    with worker.attach() as region:
        anyio.run(crowd, worker, region, backend_options={"use_uvloop": True})
        worker_is_done(worker)


def trio_crowd(worker: Worker) -> None:
    with worker.attach() as region:
        anyio.run(crowd, worker, region, TaskActor, backend="trio")
        worker_is_done(worker)


def hermit(worker: Worker) -> None:
    with worker.attach() as region:
        match worker.dice.randrange(3):
            case 0:
                anyio.run(one, worker, region)
            case 1:
                anyio.run(one, worker, region, backend_options={"use_uvloop": True})
            case 2:
                anyio.run(one, worker, region, TaskActor, backend="trio")
        worker_is_done(worker)


def thread_for(worker: Worker, region: Region) -> Callable[[], None]:
    return partial(ThreadActor(worker).work, region)


def loop_for(worker: Worker, region: Region, queue: int) -> Callable[[], None]:
    return lambda: anyio.run(crowd, worker, region, AsyncioActor, queue)


def threads(worker: Worker) -> None:
    with worker.attach() as region:
        in_threads(*(thread_for(worker, region) for _ in range(THREADS)))
        worker_is_done(worker)


def two_loops(worker: Worker) -> None:
    """Two event loops and a thread that blocks, all at one Region object."""
    with worker.attach() as region:
        in_threads(
            loop_for(worker, region, 1),
            loop_for(worker, region, 2),
            thread_for(worker, region),
        )
        worker_is_done(worker)


def readers(worker: Worker) -> None:
    """A readonly attachment, used by a loop and a thread."""
    with worker.attach(readonly=True) as region:
        in_threads(loop_for(worker, region, 1), thread_for(worker, region))
        worker_is_done(worker)


def flood(worker: Worker) -> None:
    """Readers without a pause: there is always one inside, and no writer must starve of it."""

    async def read(actor: AsyncioActor, region: Region) -> None:
        while worker.goes_on():
            with Wish(actor, Kind.READ) as wish:
                async with region.read_lock() as view:
                    with wish.inside(view):
                        await anyio.sleep(HOLD)

    async def reads(region: Region) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(FLOOD):
                group.start_soon(read, AsyncioActor(worker, 1), region)

    worker.policy = "repair"
    with worker.attach() as region:
        anyio.run(reads, region)
        worker_is_done(worker)


def comers_and_goers(worker: Worker) -> None:
    """Attach, use, and close while some wait."""

    async def visit(queue: int) -> None:
        region = worker.attach()

        async def stay(actor: AsyncioActor) -> None:
            with contextlib.suppress(RegionClosedError):
                while True:
                    await actor.use(region)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(stay, AsyncioActor(worker, queue))
            await anyio.sleep(worker.dice.random() * 0.1)
            region.close()

    async def visits() -> None:
        for queue in itertools.cycle(range(1, 200)):
            if not worker.goes_on():
                return
            await visit(queue)

    anyio.run(visits)
    worker_is_done(worker)


def rival(worker: Worker) -> None:
    """Locks with flock(2) and nothing else; rests in between, as it can overtake everybody."""
    actor = Actor(worker)
    fd = os.open(f"/dev/shm/{worker.settings.name}", os.O_RDWR | os.O_CLOEXEC)
    with mmap.mmap(fd, LENGTH * 8) as memory, memoryview(memory) as data, data.cast("Q") as view:
        while worker.goes_on():
            writes = actor.chance(actor.writing)
            lock = fcntl.LOCK_EX if writes else fcntl.LOCK_SH
            lock |= fcntl.LOCK_NB if actor.chance(0.2) else 0
            kind = Kind.FOREIGN | (Kind.WRITE if writes else Kind.READ)
            with Wish(actor, kind) as wish:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(fd, lock)
                    with wish.inside(view):
                        actor.linger_here()
                    fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(actor.moment())
    os.close(fd)
    worker_is_done(worker)


# ---- forks ---------------------------------------------------------------------------------


class ChildLeavesError(BaseException):
    """In a forked child: leave the parent's block, and the parent's work."""


def forker(worker: Worker) -> None:
    """Fork at any moment, also inside a hold, while a loop in another thread uses the lock."""
    with worker.attach() as region:
        forks = ForkingActor(worker)
        in_threads(loop_for(worker, region, 1), partial(forks.work, region))
        worker_is_done(worker)


class ForkingActor(ThreadActor):
    """A thread that forks instead of lingering, now and then."""

    def linger_here(self) -> None:
        if self.chance(0.8):
            super().linger_here()
            return
        child = self.worker.fork(ROLE_NAMES.index("child"))
        if isinstance(child, int):
            self.children.append(child)
        else:
            raise ChildLeavesError(child)

    def use(self, region: Region) -> None:
        super().use(region)
        self.reap()  # not inside: a child may wait for the lock that we hold

    def reap(self) -> None:
        while self.children:
            status = os.waitstatus_to_exitcode(os.waitpid(self.children.pop(), 0)[1])
            assert status in (0, -signal.SIGKILL), f"a child ended with {status}"

    def work(self, region: Region) -> None:
        self.children: list[int] = []
        try:
            super().work(region)
        except ChildLeavesError as leaves:
            end_as_child(leaves.args[0], region)
        self.reap()


def end_as_child(child: Worker, region: Region) -> None:
    """Use the inherited region and end, cleanly or not."""
    status = 1
    try:
        faulthandler.dump_traceback_later(30, exit=True)
        actor = ThreadActor(child)
        for _ in range(actor.dice.randrange(4)):
            actor.use(region)
        if actor.chance(0.3):
            asyncio.run(use_some(AsyncioActor(child, 1), region))
        if actor.chance(0.3):
            die_inside(actor, region)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


async def use_some(actor: AsyncioActor, region: Region) -> None:
    for _ in range(3):
        await actor.use(region)


def die_inside(actor: ThreadActor, region: Region) -> None:
    """Be killed in a hold of our own: that must not reach our parent's."""
    kind = Kind.WRITE if actor.chance(0.5) else Kind.READ
    hold = region.write_lock(recover=True) if kind else region.read_lock()
    with (
        contextlib.suppress(OwnerDiedError),  # then it is not ours to die in
        Wish(actor, kind) as wish,
        hold as view,
        wish.inside(view, told=hold.owner_died),
    ):
        number = actor.worker.number
        actor.recorder.note(Event.KILLING, value=number)
        os.kill(os.getpid(), signal.SIGKILL)


ROLES: dict[str, Callable[[Worker], None]] = {
    "asyncio": asyncio_crowd,
    "uvloop": uvloop_crowd,
    "trio": trio_crowd,
    "hermit": hermit,
    "threads": threads,
    "two loops": two_loops,
    "readers": readers,
    "forker": forker,
    "rival": rival,
    "comers": comers_and_goers,
}
SPECIAL: dict[str, Callable[[Worker], None]] = {"flood": flood}  # only when asked for
ROLE_NAMES = [*ROLES, *SPECIAL, "child", "conductor"]


# ---- a worker's life -----------------------------------------------------------------------


def run_worker(settings: Settings, number: int, role: str) -> None:
    """Be a worker. Ends the process."""
    status = 1
    try:
        explain_on_request()
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        sys.unraisablehook = end_on_unraisable
        worker = Worker(settings, number, ROLE_NAMES.index(role))
        before = descriptors()
        {**ROLES, **SPECIAL}[role](worker)
        check_that_nothing_is_left(before)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def end_on_unraisable(what: "sys.UnraisableHookArgs") -> None:
    """A warning or exception in a destructor or callback: nothing may go unnoticed."""
    traceback.print_exception(what.exc_value)
    os._exit(1)


def worker_is_done(worker: Worker) -> None:
    """Say that all waits and holds have ended, and stay until everybody's have."""
    for _ in range(LOOKS):  # a cancelled request may take a moment to be called off
        if not flock_rows():
            break
        time.sleep(0.001)
    assert flock_rows() == [], f"all have finished, and locks are left: {flock_rows()}"
    Path(f"{worker.settings.directory}/{worker.number}.done").touch()
    os.read(worker.settings.ended, 1)


def explain_on_request() -> None:
    """SIGUSR1 shows every thread's stack, SIGUSR2 the state of every cohort."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGUSR2, lambda *_: explain())


def explain() -> None:
    lines = []
    for found in gc.get_objects():
        if isinstance(found, Cohort):
            slots = {slot: getattr(found, slot, None) for slot in Cohort.__slots__}
            slots["hint"] = slots["gate"] and slots["gate"][0]
            lines.append(f"{os.getpid()}: cohort {slots}")
    print("\n".join(lines), file=sys.stderr, flush=True)


def check_that_nothing_is_left(before: set[str]) -> None:
    """The region is closed: no descriptor, thread or lock of it is there any more."""
    until = time.monotonic() + 2
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread was left"
    assert descriptors() <= before, f"descriptors were left: {descriptors() - before}"
    assert flock_rows() == [], f"locks were left: {flock_rows()}"
