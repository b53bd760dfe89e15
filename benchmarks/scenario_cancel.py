"""cancel: how soon a coroutine goes on after its wait for the lock was cancelled.

Measured: from cancel() until the waiting coroutine runs again, while another owner holds
the lock. Waits are cancelled at once, or at a random moment of their first millisecond:
just before, in and after the blocking system call. Then, with the holder gone, what the
cancelled waits left behind: threads that still block, and a lock that nobody asked for.
Each variant runs in a process of its own, for a bounded number of cancels and seconds.
"""

import asyncio
import fcntl
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio
from anyio.to_thread import run_sync

from benchmarks import peers
from benchmarks.harness import Report, interleave, summarise
from benchmarks.loops import LOOPS
from benchmarks.loops import run as run_loop
from benchmarks.outcome import Bars, Bench, Outcome, Table, Target
from benchmarks.peers import AsyncHandle, AsyncLock, Pair
from benchmarks.place import lock_file
from benchmarks.processes import Member, Pipe, members

#: Seconds after which a cancelled coroutine that has not gone on counts as stuck.
STUCK = 5.0

ABANDON = "to_thread(flock), abandoned"
REASONS = {
    peers.NAIVE: "no cancel",
    peers.PORTALOCKER: "no cancel",
    peers.FASTENERS: "no cancel",
    peers.AIORWLOCK: "one process only",
}


def abandoning(name: str) -> AsyncHandle:
    """The worker thread is left alone with its flock when its coroutine is cancelled."""
    fd = peers.open_lock_file(name)

    async def acquire() -> None:
        await run_sync(fcntl.flock, fd, fcntl.LOCK_EX, abandon_on_cancel=True)

    async def release() -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    return AsyncHandle(lambda: Pair(acquire, release))


#: The loop, the lock, and how many cancels it gets for each one that ours get.
VARIANTS: dict[str, tuple[str, Callable[[str], AsyncHandle], float]] = {
    **{f"shm_async, {loop}": (loop, peers.ours, 1.0) for loop in LOOPS},
    ABANDON: ("asyncio", abandoning, 0.1),
    peers.ASYNC_FILE_LOCK: ("asyncio", peers.async_file_lock, 1.0),
    peers.ASYNC_RW_LOCK: ("asyncio", peers.async_read_write_lock, 1.0),
}
MOST_ABANDONED = 200  # threads


@dataclass(frozen=True, slots=True)
class Part:
    """One round of one variant."""

    times: list[float]  # seconds
    stuck: int
    threads: int  # that still block, all cancels done
    owned: bool  # the lock, all cancels done and the holder gone


def bars(table: Table) -> Bars:
    shown = [(who, cells) for who, cells in table.rows if who in VARIANTS]
    return Bars(
        "cancel",
        table.title,
        "µs: median, line up to p99",
        [(who, cells[0]) for who, cells in shown],
        [cells[1] if isinstance(cells[1], float) else None for _, cells in shown],
        log=True,
        note=f"{ABANDON}: fast, but its threads stay blocked and take the lock later",
    )


def run(bench: Bench, report: Report) -> Outcome:
    rounds = bench.pick(2, 8)
    cancels, seconds = bench.pick(2_000, 20_000) // rounds, bench.pick(4, 24) / rounds
    variants: dict[str, Callable[[], Part]] = {}
    for who, (_, _, share) in VARIANTS.items():
        number = cancels if share == 1 else min(MOST_ABANDONED // rounds, int(share * cancels))
        variants[who] = partial(part, bench, who, number, seconds)
    found = interleave(variants, rounds, report)
    outcome = Outcome("A cancelled wait: from cancel() until the coroutine runs on")
    columns = ("p50 µs", "p99 µs", "longest µs", "cancels", "stuck", "threads left", "lock left")
    table = Table(outcome.title, columns)
    outcome.tables.append(table)
    for who, parts in found.items():
        facts = outcome.samples[who] = summarise(each for part in parts for each in part.times)
        stuck = sum(part.stuck for part in parts)
        threads = max(part.threads for part in parts)
        owned = "owned by nobody" if any(part.owned for part in parts) else "free"
        if facts is None:
            table.add(who, "none ended", "", "", 0, stuck, threads, owned)
            continue
        times = [each * 1e6 for each in (facts.median, facts.p99, facts.highest)]
        table.add(who, *times, facts.count, stuck, threads, owned)
        if who.startswith("shm_async"):
            outcome.targets += [
                Target(f"{who}: cancel p50", times[0], "<=", 150, "µs"),
                Target(f"{who}: cancel p99", times[1] / 1e3, "<=", 2, "ms"),
                Target(f"{who}: stuck", stuck, "<=", 0),
            ]
    for who, reason in REASONS.items():
        table.add(who, reason, *[""] * 6)
    outcome.charts.append(bars(table))
    outcome.notes.append(
        f"fewer cancels where the time was up ({seconds * rounds:g} s each), and "
        f"{MOST_ABANDONED} at most where each leaves a thread behind"
    )
    return outcome


def part(bench: Bench, who: str, cancels: int, seconds: float) -> Part:
    name = bench.place.name()
    with members(member, [(who, name, cancels, seconds)]) as [one]:
        times, stuck, threads = one.receive()
        owned = left_owned(one, who, name)
    return Part(times, stuck, threads, owned)


def left_owned(one: Member, who: str, name: str) -> bool:
    """Let the holder go, and see whether the process has the lock, which it does not use."""
    one.ask("let go")
    deadline = time.monotonic() + 0.5
    while owned(who, name):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.01)
    return False


def owned(who: str, name: str) -> bool:
    path = f"/dev/shm/{name}" if who.startswith("shm_async") else lock_file(name)
    if not os.path.exists(path):
        return False  # filelock removes its file
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# ---- the member ----------------------------------------------------------------------


def member(pipe: Pipe, who: str, name: str, cancels: int, seconds: float) -> None:
    loop, maker, _ = VARIANTS[who]
    one = one_cancel_trio if loop == "trio" else one_cancel_asyncio
    run_loop(loop, measure, pipe, maker, name, one, cancels, seconds)


async def measure(
    pipe: Pipe,
    maker: Callable[[str], AsyncHandle],
    name: str,
    one: Callable[[AsyncLock, float], Awaitable[float | None]],
    cancels: int,
    seconds: float,
) -> None:
    random_ = random.Random(1)
    holder, lock = maker(name).write, maker(name).write
    times: list[float] = []
    stuck = 0
    async with holder():
        threads = len(os.listdir("/proc/self/task"))
        end = time.monotonic() + seconds
        for _ in range(cancels):
            took = await one(lock, random_.choice([0, 0, random_.random() / 1000]))
            if took is None:
                stuck += 1
            else:
                times.append(took)
            if time.monotonic() > end:
                break
        await asyncio.sleep(0.3) if one is one_cancel_asyncio else await trio.sleep(0.3)
        pipe.send((times, stuck, len(os.listdir("/proc/self/task")) - threads))
        pipe.recv()
    pipe.send("let go")
    pipe.recv()  # until we are killed


async def one_cancel_asyncio(lock: AsyncLock, patience: float) -> float | None:
    ended = 0.0

    async def wait() -> None:
        nonlocal ended
        try:
            async with lock():
                raise AssertionError("the lock was not free")
        finally:
            ended = time.perf_counter()

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(patience)
    start = time.perf_counter()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=STUCK)
    return ended - start if done else None


async def one_cancel_trio(lock: AsyncLock, patience: float) -> float | None:
    ended = 0.0
    scope = trio.CancelScope()

    async def wait() -> None:
        nonlocal ended
        try:
            with scope:
                async with lock():
                    raise AssertionError("the lock was not free")
        finally:
            ended = time.perf_counter()

    with trio.move_on_after(STUCK) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(patience)
            start = time.perf_counter()
            scope.cancel()
    return None if limit.cancelled_caught else ended - start
