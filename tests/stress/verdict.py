"""The verdict on a history: where two were inside, what was lost, and who waited too long."""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from history import QUEUE_SHIFT, Hold, Kind, Nap, Process


@dataclass(frozen=True)
class Violation:
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class Report:
    """What `check` found. Times are in seconds."""

    violations: list[Violation]
    reads: int
    writes: int
    told: int  # holds that were told of a death, or did not care, and saw what it left
    killed_inside: int
    cancelled: int
    converted: int
    kept: int
    shared: int  # reads that began while a reader of another process was inside
    waited: int  # holds that took more than CONTENDED to get
    longest: Hold | None
    overtaken: int  # the most holds that were granted between a wish and its grant

    @property
    def max_wait(self) -> float:
        return wait_of(self.longest) / 1e9 if self.longest else 0.0


#: Nanoseconds after which a wait counts as one: less is what a free lock takes.
CONTENDED = 100_000
#: Nanoseconds of waiting, and holds of others meanwhile, that together are starvation. With
#: the gate a wait takes a few rounds of all processes: a tenth of a second, some 500 holds,
#: but 2,500 where a process reads and reads without staying inside.
HUNGER, OTHERS = 300_000_000, 5_000
#: Whoever sleeps at the gate for longer than this must have been passed. Nanoseconds: after
#: the first of them those who were ahead of the sleeper are out.
NAP, OUT = 400_000_000, 100_000_000
#: Violations of one kind that are told; a broken lock makes thousands.
MOST = 5


# ---- checking ------------------------------------------------------------------------------------


def check(
    processes: list[Process], final: int | None = None, bound: float = 10, *, marked: bool = False
) -> Report:
    """Look for every violation.

    Args:
        processes: from `load`.
        final: the near word at the end; None leaves the accounts out.
        bound: seconds within which a wait must end, counted from the calm at the end, if
            there was one, or from its start if that was later.
        marked: there is a control page, from which the death of a writer is known.
    """
    holds = [hold for process in processes for hold in process.holds]
    inside = sorted((hold for hold in holds if hold.acquired is not None), key=start_of)
    calm = max((process.calm for process in processes if process.calm is not None), default=0)
    naps = [nap for process in processes for nap in process.naps]
    found: list[Iterator[Violation]] = [
        overlaps(inside),
        unfinished(holds),
        stuck(holds, calm, int(bound * 1e9)),
        starved(inside, naps),
        blocked(inside, naps),
        torn(inside, marked=marked),
        changed(inside),
        stale(inside),
        broken_promises(inside),
        out_of_turn(processes),
    ]
    if final is not None:
        found.append(accounts(inside, final))
    converted = [hold for hold in inside if hold.kind & Kind.CONVERTED]
    return Report(
        violations=[violation for each in found for violation in itertools.islice(each, MOST)],
        reads=sum(not hold.writes for hold in inside),
        writes=sum(hold.writes for hold in inside),
        told=sum(bool(hold.kind & Kind.TOLD) and hold.seen[0] != hold.seen[1] for hold in inside),
        killed_inside=sum(hold.released is None for hold in inside),
        cancelled=sum(hold.cancelled is not None for hold in holds),
        converted=len(converted),
        kept=sum(bool(hold.kind & Kind.KEPT) for hold in converted),
        shared=shared(inside),
        waited=sum(wait_of(hold) > CONTENDED for hold in inside),
        longest=max(inside, key=wait_of, default=None),
        overtaken=overtaken(inside),
    )


def start_of(hold: Hold) -> int:
    assert hold.acquired is not None
    return hold.acquired


def wait_of(hold: Hold) -> int:
    return start_of(hold) - hold.wanted


def overlaps(inside: list[Hold]) -> Iterator[Violation]:
    """No writer is inside with anybody else. `inside` is sorted by start."""
    last: Hold | None = None  # the one of all so far that ends last
    writer: Hold | None = None  # ... of the writers
    for hold in inside:
        other = last if hold.writes else writer
        if other is not None and start_of(hold) < other.end:
            yield Violation("overlap", f"\n    {other}\n    {hold}")
        if last is None or hold.end > last.end:
            last = hold
        if hold.writes and (writer is None or hold.end > writer.end):
            writer = hold


def unfinished(holds: Iterable[Hold]) -> Iterator[Violation]:
    """Whoever was not killed has finished what it began."""
    for hold in holds:
        if hold.killed is None and hold.released is None and hold.cancelled is None:
            yield Violation("unfinished", f"\n    {hold}")


def stuck(holds: Iterable[Hold], calm: int, bound: int) -> Iterator[Violation]:
    """No wait lasts longer than `bound` ns, not counting the time before `calm`."""
    for hold in holds:
        if hold.answered is not None and hold.answered - max(hold.wanted, calm) > bound:
            yield Violation("stuck", f"\n    {hold}")


def starved(inside: list[Hold], naps: list[Nap]) -> Iterator[Violation]:
    """Nobody waits for long while many others go in: a slow machine alone is no proof.

    Who goes in while somebody sleeps at the gate does not count: all wait in turns of 60 ms.
    """
    starts = [start_of(hold) for hold in inside]
    for place, hold in enumerate(inside):
        if wait_of(hold) > HUNGER:
            others = place - bisect.bisect_left(starts, hold.wanted)
            for _, since, until in naps:
                first, last = max(since, hold.wanted), min(until, start_of(hold))
                others -= max(0, bisect.bisect(starts, last) - bisect.bisect(starts, first))
            if others > OTHERS:
                yield Violation("starved", f"{others} went in before\n    {hold}")


def blocked(inside: list[Hold], naps: list[Nap]) -> Iterator[Violation]:
    """Somebody who sleeps at the gate delays the others, but they go past."""
    starts = [start_of(hold) for hold in inside if not hold.kind & Kind.FOREIGN]
    for process, since, until in naps:
        passed = bisect.bisect(starts, until) - bisect.bisect(starts, since + OUT)
        if until - since > NAP and passed == 0:
            seconds = (until - since) / 1e9
            yield Violation("blocked", f"while {process} slept at the gate for {seconds} s")


def killed_writes(inside: Iterable[Hold], *, unmarked: bool = False) -> set[int]:
    """The values of those who were killed inside: each may have been written or not."""
    kinds = Kind.WRITE | (Kind.FOREIGN if unmarked else 0)
    return {hold.value for hold in inside if hold.released is None and hold.kind & kinds == kinds}


def torn(inside: list[Hold], *, marked: bool = True) -> Iterator[Violation]:
    """The words are equal, or differ by what killed writers stored in the near one alone.

    If writing is `marked`, only those who were told of the death see that.
    """
    killed, unmarked = killed_writes(inside), killed_writes(inside, unmarked=marked)
    for hold in inside:
        near, far = hold.seen
        known = killed if hold.kind & (Kind.TOLD | Kind.FOREIGN) else unmarked
        if near != far and not (far < near and known.issuperset(range(far + 1, near + 1))):
            yield Violation("torn", f"\n    {hold}")


def changed(inside: Iterable[Hold]) -> Iterator[Violation]:
    """A reader sees the same at the end as at the start, a writer what it wrote."""
    for hold in inside:
        if hold.released is not None:
            due = (hold.value, hold.value) if hold.writes else hold.seen
            if hold.left != due:
                yield Violation("changed", f"\n    {hold}")


def stale(inside: list[Hold]) -> Iterator[Violation]:
    """Everybody sees the last value that was acknowledged, and none that is yet to come."""
    writes = [hold for hold in inside if hold.writes]
    done = sorted((hold.end, hold.value) for hold in writes if hold.released is not None)
    done_at, done_most = _running_most(done)
    begun_at, begun_most = _running_most([(start_of(hold), hold.value) for hold in writes])
    for hold in inside:
        before = bisect.bisect_right(done_at, start_of(hold))
        least = done_most[before - 1] if before else 0
        until = bisect.bisect_left(begun_at, start_of(hold))
        most = begun_most[until - 1] if until else 0
        if not least <= hold.seen[0] <= most:
            yield Violation("stale", f"not within {least} to {most}\n    {hold}")


def _running_most(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    times = [when for when, _ in pairs]
    return times, list(itertools.accumulate((value for _, value in pairs), max))


def accounts(inside: list[Hold], final: int) -> Iterator[Violation]:
    """Each value up to the last was written once, or by somebody who was killed at it."""
    killed = killed_writes(inside)
    written: dict[int, Hold] = {}
    for hold in inside:
        if hold.writes and hold.released is not None:
            if hold.value in written:
                yield Violation("lost", f"\n    {written[hold.value]}\n    {hold}")
            written[hold.value] = hold
    for value in range(1, final + 1):
        if value not in written and value not in killed:
            yield Violation("unaccounted", f"nobody wrote {value}")
    if written and max(written) > final:
        yield Violation("lost", f"\n    {written[max(written)]}\n    and the last is {final}")


def broken_promises(inside: Iterable[Hold]) -> Iterator[Violation]:
    """Nobody writes during a conversion that says that it did not let go."""
    for hold in inside:
        if hold.kind & Kind.KEPT and (hold.before is None or hold.before.left != hold.seen):
            yield Violation("not kept", f"\n    {hold.before}\n    {hold}")


def out_of_turn(processes: Iterable[Process]) -> Iterator[Violation]:
    """In a queue that is first come, first served nobody passes a writer, and no writer anybody.

    Readers may change places with each other: they go in together.
    """
    for process in processes:
        queues: dict[int, list[Hold]] = defaultdict(list)
        for hold in process.holds:
            queue = hold.actor >> QUEUE_SHIFT
            if queue and not hold.kind & (Kind.APART | Kind.CONVERTED) and hold.acquired:
                queues[queue].append(hold)
        for queue in queues.values():
            yield from _out_of_turn(queue)


def _out_of_turn(queue: list[Hold]) -> Iterator[Violation]:
    """`queue` is in the order of wanting."""
    last: Hold | None = None  # the one so far that went in last
    writer: Hold | None = None  # ... of the writers
    for hold in queue:
        other = last if hold.writes else writer
        if other is not None and start_of(hold) < start_of(other):
            yield Violation("out of turn", f"\n    {other}\n    {hold}")
        if last is None or start_of(hold) > start_of(last):
            last = hold
        if hold.writes and (writer is None or start_of(hold) > start_of(writer)):
            writer = hold


# ---- measuring -----------------------------------------------------------------------------------


def shared(inside: list[Hold]) -> int:
    """How many reads began while a reader of another process was inside."""
    count = 0
    until: dict[int, int] = {}  # by process
    for hold in inside:
        if not hold.writes:
            now = start_of(hold)
            count += any(end > now for other, end in until.items() if other != hold.process)
            until[hold.process] = max(hold.end, until.get(hold.process, 0))
            if len(until) > 64:  # processes come and go
                until = {other: end for other, end in until.items() if end > now}
    return count


def overtaken(inside: list[Hold]) -> int:
    """The most holds that began between somebody's wish and its grant."""
    starts = [start_of(hold) for hold in inside]
    return max(
        (place - bisect.bisect_left(starts, hold.wanted) for place, hold in enumerate(inside)),
        default=0,
    )


def count_by(holds: Iterable[Hold], key: Callable[[Hold], str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for hold in holds:
        counts[key(hold)] += 1
    return dict(counts)
