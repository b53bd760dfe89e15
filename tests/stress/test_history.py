"""The checker itself: good histories pass, and each kind of violation is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from history import Event, Hold, Kind, Process, Recorder, load
from verdict import check

pytestmark = pytest.mark.once

FAR_AHEAD = 20_000_000_000  # ns, more than any bound


def hold(
    process: int, kind: int, acquired: int, released: int | None, seen: int, /, **more
) -> Hold:
    """A hold that did what it must; `more` says what it did otherwise."""
    left = seen + bool(kind & Kind.WRITE)
    facts = {
        "process": process,
        "actor": 1,
        "number": acquired,
        "kind": kind,
        "wanted": acquired - 1,
        "acquired": acquired,
        "released": released,
        "seen": (seen, seen),
        "left": (left, left),
    }
    return Hold(**{**facts, **more})


def read(process: int, acquired: int, released: int | None, seen: int, /, **more) -> Hold:
    return hold(process, Kind.READ, acquired, released, seen, **more)


def write(process: int, acquired: int, released: int | None, seen: int, /, **more) -> Hold:
    return hold(process, Kind.WRITE, acquired, released, seen, **more)


def history_of(*holds: Hold) -> list[Process]:
    processes = {each.process: Process(each.process) for each in holds}
    for each in sorted(holds, key=lambda each: each.wanted):
        processes[each.process].holds.append(each)
    return list(processes.values())


def kinds(*holds: Hold, final: int | None = None) -> list[str]:
    """The kinds of the violations that are found."""
    return [violation.kind for violation in check(history_of(*holds), final).violations]


# ---- good ones ---------------------------------------------------------------------------


def test_an_empty_history_is_good():
    report = check([], 0)
    assert report.violations == []
    assert report.max_wait == 0


def test_readers_share_and_writers_take_turns():
    holds = [
        write(1, 10, 20, 0),
        read(1, 30, 50, 1),
        read(2, 35, 45, 1),
        write(2, 50, 60, 1),  # the clock did not move on
    ]
    report = check(history_of(*holds), 2)
    assert report.violations == []
    assert (report.reads, report.writes, report.shared) == (2, 2, 1)


def test_readers_of_one_process_prove_no_sharing():
    assert check(history_of(read(1, 10, 20, 0), read(1, 11, 15, 0))).shared == 0


def test_the_longest_wait_and_the_overtaken_are_measured():
    slow = write(1, 5_000_000_000, 5_000_000_001, 2, wanted=1_000_000_000)
    quick = [write(2, 2_000_000_000 + 10 * n, 2_000_000_005 + 10 * n, n) for n in range(2)]
    report = check(history_of(slow, *quick), 3)
    assert report.violations == []
    assert (report.longest, report.max_wait, report.overtaken) == (slow, 4.0, 2)
    assert report.waited == 1


def test_a_cancelled_wait_is_good():
    waits = write(1, 10, None, 0, acquired=None, cancelled=30)
    report = check(history_of(waits, write(2, 12, 20, 0)), 1)
    assert report.violations == []
    assert report.cancelled == 1


@pytest.mark.parametrize("stored", [False, True])
def test_a_killed_writer_may_have_written_or_not(stored: bool):
    value = 1 + stored
    killed = write(1, 30, None, 1, killed=40)
    after = [read(2, 50, 60, value, seen=(value, 1), left=(value, 1)), write(2, 70, 80, value)]
    after[1].seen = (value, 1)
    report = check(history_of(write(2, 10, 20, 0), killed, *after), value + 1)
    assert report.violations == []
    assert report.killed_inside == 1


def test_several_writers_may_be_killed_one_after_the_other():
    killed = [write(n, 10 * n, None, n - 1, killed=10 * n + 5) for n in (1, 2, 3)]
    assert kinds(*killed, read(4, 100, 110, 3, seen=(3, 0), left=(3, 0)), final=3) == []


def test_what_a_killed_process_was_waiting_for_is_forgotten():
    assert kinds(write(1, 10, None, 0, acquired=None, killed=50), write(2, 20, 30, 0)) == []


def test_a_conversion_that_let_go_promises_nothing():
    before = read(1, 10, 20, 0)
    after = hold(1, Kind.WRITE | Kind.CONVERTED, 40, 50, 1, before=before)
    report = check(history_of(before, write(2, 25, 30, 0), after), 2)
    assert report.violations == []
    assert (report.converted, report.kept) == (1, 0)


def test_readers_may_change_places_in_a_queue():
    queue = {"actor": 1 << 8}
    assert (
        kinds(read(1, 30, 40, 0, wanted=10, **queue), read(1, 25, 40, 0, wanted=11, **queue)) == []
    )


# ---- bad ones ----------------------------------------------------------------------------


def test_two_writers_at_once_are_found():
    assert "overlap" in kinds(write(1, 10, 20, 0), write(2, 19, 30, 1))


def test_a_writer_within_a_long_read_is_found():
    assert kinds(read(1, 10, 100, 0), read(2, 11, 12, 0), write(3, 50, 60, 0)) == ["overlap"]


def test_a_reader_within_a_long_write_is_found():
    assert "overlap" in kinds(write(1, 10, 100, 0), read(2, 50, 60, 0))


def test_a_writer_is_inside_until_it_is_killed():
    assert "overlap" in kinds(write(1, 10, None, 0, killed=100), read(2, 50, 60, 0))
    assert kinds(write(1, 10, None, 0, killed=40), read(2, 50, 60, 0)) == []


def test_a_kill_that_came_before_the_grant_counts_from_the_grant():
    assert kinds(write(1, 10, None, 0, killed=5), read(2, 11, 12, 0)) == []


def test_a_torn_read_is_found():
    torn = read(2, 30, 40, 2, seen=(2, 1), left=(2, 1))
    assert kinds(write(1, 10, 15, 0), write(1, 16, 20, 1), torn) == ["torn"]


def test_who_sees_torn_words_was_told_or_the_dead_leave_no_mark():
    def found(kind: Kind, dead: Kind = Kind.WRITE, *, marked: bool = True) -> list[str]:
        killed = hold(1, dead, 10, None, 0, killed=20)
        torn = hold(2, kind, 30, 40, 1, seen=(1, 0), left=(1, 0))
        return [each.kind for each in check(history_of(killed, torn), marked=marked).violations]

    assert found(Kind.READ) == ["torn"]
    assert found(Kind.READ, marked=False) == []
    assert found(Kind.TOLD) == []
    assert found(Kind.FOREIGN) == []
    assert found(Kind.READ, Kind.WRITE | Kind.FOREIGN) == []


def test_words_that_no_killed_writer_can_explain_are_torn():
    killed = write(1, 10, None, 0, killed=20)
    torn = read(2, 30, 40, 1, seen=(0, 1), left=(0, 1))  # the far word is never ahead
    assert "torn" in kinds(killed, torn)


def test_a_change_during_a_read_is_found():
    assert kinds(read(1, 10, 20, 0, left=(1, 1))) == ["changed"]


def test_a_writer_that_finds_another_value_at_its_end_is_told_of():
    assert kinds(write(1, 10, 20, 0, left=(2, 2))) == ["changed"]


def test_a_lost_update_is_found():
    assert "lost" in kinds(write(1, 10, 20, 0), write(2, 30, 40, 0), final=1)


def test_a_value_that_nobody_wrote_is_found():
    assert kinds(write(1, 10, 20, 0), final=2) == ["unaccounted"]


def test_a_write_that_vanished_is_found():
    assert kinds(write(1, 10, 20, 0), final=0) == ["lost"]


def test_one_who_sees_what_was_overwritten_is_found():
    assert kinds(write(1, 10, 20, 0), read(2, 30, 40, 0)) == ["stale"]


def test_one_who_sees_what_is_yet_to_come_is_found():
    assert kinds(read(2, 5, 8, 1), write(1, 10, 20, 0)) == ["stale"]


def test_a_hold_without_an_end_is_found():
    assert kinds(read(1, 10, None, 0)) == ["unfinished"]


def test_a_wait_without_an_end_is_found():
    assert kinds(read(1, 10, None, 0, acquired=None)) == ["unfinished"]


def test_a_wait_that_is_too_long_is_found():
    slow = read(1, FAR_AHEAD, FAR_AHEAD + 1, 0, wanted=5)
    assert kinds(slow) == ["stuck"]
    calm = Process(0, calm=FAR_AHEAD - 10)
    assert check([calm, *history_of(slow)]).violations == []


def test_a_cancellation_that_takes_too_long_is_found():
    assert kinds(read(1, 10, None, 0, acquired=None, cancelled=FAR_AHEAD)) == ["stuck"]


def test_starvation_is_found():
    others = [read(2, 500_000 * n, 500_000 * n + 1, 0) for n in range(1, 6001)]
    late = 3_100_000_000
    hungry = write(1, late, late + 1, 0, wanted=5)
    assert kinds(*others, hungry) == ["starved"]
    conductor = Process(0, naps=[(2, 1, 1_000_000_000)])  # a third of them passed a sleeper
    assert check([conductor, *history_of(*others, hungry)]).violations == []
    assert kinds(*others[:100], write(1, late, late + 1, 0, wanted=5)) == []


def test_one_who_blocks_the_others_in_his_sleep_is_found():
    first, second = 1_000_000_000, 2_000_000_000
    holds = [read(1, first, first + 1, 0), read(1, second, second + 1, 0)]
    conductor = Process(0, naps=[(2, first + 100, first + 900_000_000)])
    found = check([conductor, *history_of(*holds)]).violations
    assert [violation.kind for violation in found] == ["blocked"]
    conductor.naps = [(2, first + 100, first + 100_000_000), (2, second - 500_000_000, second + 5)]
    assert check([conductor, *history_of(*holds)]).violations == []
    holds[1].kind |= Kind.FOREIGN  # who knows nothing of the gate goes past any sleeper
    assert check([conductor, *history_of(*holds)]).violations != []


def test_a_write_during_a_kept_conversion_is_found():
    before = read(1, 10, 20, 0)
    kind = Kind.WRITE | Kind.CONVERTED | Kind.KEPT
    after = hold(1, kind, 40, 50, 1, before=before)
    assert kinds(before, write(2, 25, 30, 0), after, final=2) == ["not kept"]


@pytest.mark.parametrize(("first", "second"), [(write, write), (write, read), (read, write)])
def test_one_who_jumps_the_queue_is_found(first, second):
    queue = {"actor": 1 << 8}
    late = first(1, 30, 40, 1 if second is write else 0, wanted=10, **queue)
    early = second(1, 20, 25, 0, wanted=11, **queue)
    assert kinds(late, early) == ["out of turn"]
    late.kind |= Kind.APART
    assert kinds(late, early) == []


def test_queues_are_apart_from_each_other():
    late = write(1, 30, 40, 1, wanted=10, actor=1 << 8)
    assert kinds(late, write(1, 20, 25, 0, wanted=11, actor=2 << 8)) == []


def test_many_violations_of_one_kind_are_cut_short():
    assert kinds(*(read(1, 10 * n, None, 0) for n in range(1, 100))) == ["unfinished"] * 5


# ---- writing down and reading back ---------------------------------------------------------


def test_what_was_recorded_is_read_back(tmp_path: Path):
    recorder = Recorder(str(tmp_path), 7, role=3)
    recorder.note(Event.WANTED, Kind.READ, actor=5, number=1)
    recorder.note(Event.ACQUIRED, Kind.READ, 5, 1, 4, 4)
    recorder.note(Event.RELEASED, Kind.READ, 5, 1, 4, 4)
    recorder.note(Event.WANTED, Kind.WRITE | Kind.CONVERTED, actor=5, number=2)
    recorder.note(Event.ACQUIRED, Kind.WRITE | Kind.CONVERTED | Kind.KEPT, 5, 2, 4, 4)
    recorder.note(Event.WANTED, Kind.WRITE, actor=6, number=3)
    recorder.note(Event.CANCELLED, Kind.WRITE, 6, 3)
    recorder.note(Event.STOPPED, value=9)
    recorder.note(Event.CONTINUED, value=9)
    recorder.note(Event.CALM)
    recorder.note(Event.REFUSED)
    recorder.close()
    killer = Recorder(str(tmp_path), 8)
    killer.note(Event.KILLING, value=7)
    killer.close()
    first, second = load(tmp_path)
    assert (first.number, first.pid, first.role) == (7, os.getpid(), 3)
    [(sleeper, since, until)] = first.naps
    assert (sleeper, first.refused) == (9, 1)
    assert since < until
    assert first.calm is not None
    read, write, cancelled = first.holds
    assert (read.actor, read.kind, read.seen, read.left) == (5, Kind.READ, (4, 4), (4, 4))
    assert read.wanted < read.acquired < read.released < first.killed
    assert (write.before, write.released) == (read, None)
    assert write.kind & Kind.KEPT
    assert write.end == first.killed
    assert cancelled.acquired is None
    assert cancelled.answered == cancelled.cancelled
    assert second.killed is None


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from history import Event, Recorder
recorder = Recorder(sys.argv[1], 7)
recorder.note(Event.WANTED, number=1)
recorder.note(Event.ACQUIRED, number=1)
recorder.note(Event.KILLING, value=7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_nothing(tmp_path: Path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=30, check=False).returncode == -9
    [process] = load(tmp_path)
    [hold] = process.holds
    assert hold.acquired < hold.end == process.killed


def test_a_forked_child_adds_nothing_to_its_parents_history(tmp_path: Path):
    recorder = Recorder(str(tmp_path), 7)
    pid = os.fork()
    if pid == 0:
        recorder.silence()
        recorder.note(Event.WANTED, number=1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    recorder.close()
    [process] = load(tmp_path)
    assert process.holds == []


def test_half_a_record_at_the_end_is_left_out(tmp_path: Path):
    recorder = Recorder(str(tmp_path), 7)
    recorder.note(Event.WANTED, number=1)
    recorder.close()
    path = tmp_path / "7.history"
    path.write_bytes(path.read_bytes()[:-1])
    [process] = load(tmp_path)
    assert process.holds == []
