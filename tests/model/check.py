"""Search every state of the lock's model with SPIN: `python tests/model/check.py [name ...]`.

Each line is one search: the protocol as it is must hold, and each mutation of it (a rule left
out) must be caught, or the property that catches it would prove nothing. A search that was not
exhaustive is a failure. So is an event (events.pml) that no sound search ever met.

The models and what they leave out: lock.pml, resize.pml.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "model"

DEPTH = 500_000  # steps of the longest path; pan says so if that is not enough
MEMORY_MB = 1000
SECONDS = 120  # for one search

#: What a search can find wrong, in pan's words.
ASSERTION = "assertion violated"
DEADLOCK = "invalid end state"
CYCLE = "acceptance cycle"


@dataclass(frozen=True, slots=True)
class Search:
    """One configuration of the model, and what must come out.

    `ltl` names a liveness property of lock.pml; without one, the assertions and deadlocks are
    checked. `fails` is what the search must find wrong; None: nothing.
    """

    name: str
    switches: str
    ltl: str | None = None
    fails: str | None = None
    model: str = "lock.pml"


# Masks have a bit per task: the cohorts' tasks come first, then the seats.
THREE_SEATS = "SEATS=3"
ONE_COHORT = "COHORTS=1 TASKS=3 SEATS=1"
TWO_COHORTS = "COHORTS=2 TASKS=2"
BUSY_READERS = "SEATS=3 ROUNDS=0 READS=3 WRITES=4 HERO=2"
BUSY_MIXTURE = "SEATS=3 ROUNDS=0 READS=3 WRITES=6 HERO=2"
BUSY_UPGRADER = "COHORTS=1 TASKS=3 ROUNDS=0 READS=7 UPGRADES=1 HERO=0"
BUSY_UPGRADERS = "COHORTS=1 TASKS=2 SEATS=1 ROUNDS=0 READS=3 WRITES=4 UPGRADES=3 HERO=0"
BUSY_COHORT = "COHORTS=1 TASKS=2 SEATS=1 ROUNDS=0 HERO=2"

SEARCHES = (
    # ---- between processes: every system call is a step ----
    Search("seats", f"{THREE_SEATS} ROUNDS=2 GIVES_UP=1"),
    Search("seats-spin", f"{THREE_SEATS} ROUNDS=2 GIVES_UP=1 SPINS=1"),
    Search("seats-turn", f"{THREE_SEATS} ROUNDS=2 GIVES_UP=1 SPINS=1 TURNS=2"),
    Search("seats-turn-crash", f"{THREE_SEATS} ROUNDS=2 PASS_SLEEPERS=1 TURNS=1 CRASHES=1"),
    Search("seats-convert", f"{THREE_SEATS} ROUNDS=2 GIVES_UP=1 UPGRADES=7 DOWNGRADES=1"),
    Search(
        "seats-crash",
        f"{THREE_SEATS} GIVES_UP=1 UPGRADES=7 DOWNGRADES=1 PASS_SLEEPERS=1 CRASHES=1",
    ),
    Search("seats-crash-again", "SEATS=2 ROUNDS=3 UPGRADES=3 CRASHES=1"),
    Search("seats-crash-twice", f"{THREE_SEATS} UPGRADES=7 CRASHES=2"),
    Search("seats-sleeper", f"{THREE_SEATS} ROUNDS=2 SLEEPERS=1 PASS_SLEEPERS=1"),
    # ---- inside a process, against others ----
    Search("cohort", f"{ONE_COHORT} CANCELS=7 PASS_SLEEPERS=1"),
    Search("cohort-rounds", "COHORTS=1 TASKS=3 ROUNDS=2 CANCELS=7 MAX_PASSES=2"),
    Search("cohort-convert", f"{ONE_COHORT} UPGRADES=15 DOWNGRADES=1 CANCELS=3"),
    Search("cohort-gives-back", "COHORTS=1 TASKS=2 SEATS=1 CANCELS=3 GIVES_BACK=1"),
    Search("cohort-sleeper", "COHORTS=1 TASKS=2 SEATS=2 CANCELS=1 SLEEPERS=4 PASS_SLEEPERS=1"),
    Search("cohort-crash", "COHORTS=1 TASKS=2 SEATS=1 CANCELS=3 UPGRADES=7 CRASHES=1"),
    Search("cohorts", f"{TWO_COHORTS} CANCELS=5"),
    Search("cohorts-convert", f"{TWO_COHORTS} UPGRADES=15 CANCELS=5"),
    Search("cohorts-crash", f"{TWO_COHORTS} UPGRADES=1 CRASHES=1"),
    Search("cohort-and-seats", "COHORTS=1 TASKS=2 SEATS=2 CANCELS=1 UPGRADES=5 GIVES_UP=1"),
    # a cancel ends a request although the lock, or the gate, never comes
    Search("cancel-blocked", "COHORTS=1 TASKS=2 SEATS=1 CANCELS=3 HOLDERS=4 READS=3"),
    Search(
        "cancel-queued",
        "COHORTS=1 TASKS=1 SEATS=2 CANCELS=1 HOLDERS=2 SLEEPERS=4 GIVES_UP=1 PASS_SLEEPERS=1",
    ),
    # ---- nobody waits for ever though the others never pause ----
    Search("live-gate", BUSY_READERS, "gets_in_by_gate"),
    Search("live-gate-mixture", BUSY_MIXTURE, "gets_in_by_gate"),
    Search("live-at-gate", BUSY_MIXTURE, "gets_in_from_gate"),
    Search("live-spin", f"{BUSY_MIXTURE} SPINS=1", "gets_in_by_gate"),
    Search("live-spin-at-gate", f"{BUSY_MIXTURE} SPINS=1", "gets_in_from_gate"),
    Search("live-turn", f"{BUSY_MIXTURE} TURNS=1", "gets_in_by_gate"),
    Search("live-turn-at-gate", f"{BUSY_MIXTURE} TURNS=2", "gets_in_from_gate"),
    Search("live-passers", f"{BUSY_MIXTURE} PASS_SLEEPERS=1", "gets_in_by_gate"),
    Search("live-shared-hold", f"{BUSY_COHORT} READS=3 WRITES=4", "gets_in_by_gate"),
    Search("live-hand-over", f"{BUSY_COHORT} READS=0", "gets_in_by_gate"),
    Search("live-queue", "COHORTS=1 TASKS=3 ROUNDS=0 READS=3 WRITES=4 HERO=2", "gets_in"),
    Search("live-upgrade", BUSY_UPGRADER, "gets_in"),
    Search("live-upgraders", BUSY_UPGRADERS, "gets_in_by_gate"),
    Search("live-two-cohorts", "COHORTS=2 TASKS=1 ROUNDS=0 READS=3 HERO=1", "gets_in_by_gate"),
    # ---- what plain flock, or less than is assumed, does ----
    Search("gateless", f"{BUSY_READERS} GATELESS=1", "gets_in_by_flock", CYCLE),
    Search("gate-without-order", BUSY_READERS, "gets_in", CYCLE),
    Search(
        "read-only-overtaken",
        "SEATS=3 ROUNDS=0 READS=4 WRITES=3 HERO=2 READ_ONLY=4",
        "gets_in_by_gate",
        CYCLE,
    ),
    Search("split-conversion", "SEATS=2 UPGRADES=3 SPLIT_CONVERSION=1", None, ASSERTION),
    Search("nobody-passes", f"{THREE_SEATS} SLEEPERS=1", None, DEADLOCK),
    # ---- a rule left out ----
    Search("hint-unheeded", f"{BUSY_MIXTURE} HINT_UNHEEDED=1", "gets_in_from_gate", CYCLE),
    Search(
        "turn-without-end",
        f"{BUSY_MIXTURE} TURNS=1 TURN_WITHOUT_END=1",
        "gets_in_from_gate",
        CYCLE,
    ),
    Search(
        "passes-at-first-sight",
        f"{THREE_SEATS} PASS_SLEEPERS=1 PASSES_AT_FIRST_SIGHT=1",
        None,
        ASSERTION,
    ),
    Search("passes-at-once", f"{THREE_SEATS} PASS_SLEEPERS=1 PASSES_AT_ONCE=1", None, ASSERTION),
    Search("ticketless", f"{THREE_SEATS} ROUNDS=2 PASS_SLEEPERS=1 TICKETLESS=1", None, ASSERTION),
    Search("hint-never-cleared", f"{THREE_SEATS} CLEAR_HINT_NEVER=1", None, ASSERTION),
    Search("hint-cleared-late", f"{THREE_SEATS} CLEAR_HINT_LATE=1", None, ASSERTION),
    Search("joined-upgrader", f"{BUSY_UPGRADER} JOINS_PAST_THE_QUEUE=1", "gets_in", CYCLE),
    Search(
        "refused-makes-sound",
        "SEATS=2 ROUNDS=2 CRASHES=1 REFUSED_MAKES_SOUND=1",
        None,
        ASSERTION,
    ),
    Search(
        "failed-makes-sound",
        "SEATS=2 ROUNDS=2 CRASHES=1 FAILED_MAKES_SOUND=1",
        None,
        ASSERTION,
    ),
    Search(
        "upgrade-keeps-belief",
        f"{TWO_COHORTS} UPGRADES=15 UPGRADE_KEEPS_BELIEF=1",
        None,
        ASSERTION,
    ),
    Search("upgrade-says-true", f"{ONE_COHORT} UPGRADES=7 UPGRADE_SAYS_TRUE=1", None, ASSERTION),
    Search("two-upgrade", "COHORTS=1 TASKS=2 UPGRADES=3 TWO_MAY_UPGRADE=1", None, DEADLOCK),
    Search("cancel-keeps-lock", f"{ONE_COHORT} CANCELS=7 CANCEL_KEEPS_THE_LOCK=1", None, ASSERTION),
    Search(
        "cancel-forgets-grant", f"{ONE_COHORT} CANCELS=7 CANCEL_FORGETS_A_GRANT=1", None, ASSERTION
    ),
    Search("ends-without-asking", f"{ONE_COHORT} CANCELS=7 ENDS_WITHOUT_ASKING=1", None, ASSERTION),
    Search(
        "interrupts-once",
        "COHORTS=1 TASKS=2 SEATS=1 CANCELS=3 HOLDERS=4 READS=3 INTERRUPTS_ONCE=1",
        None,
        DEADLOCK,
    ),
    Search(
        "gives-back-unseen",
        "COHORTS=1 TASKS=2 SEATS=1 CANCELS=3 GIVES_BACK=1 GIVES_BACK_UNSEEN=1",
        None,
        ASSERTION,
    ),
    Search(
        "hands-over-for-ever",
        f"{BUSY_COHORT} READS=0 HANDS_OVER_FOR_EVER=1",
        "gets_in_by_gate",
        CYCLE,
    ),
    Search(
        "joins-past-the-gate",
        f"{BUSY_COHORT} READS=3 WRITES=4 JOINS_PAST_THE_GATE=1",
        "gets_in_by_gate",
        CYCLE,
    ),
    Search(
        "joins-past-the-queue",
        "COHORTS=1 TASKS=3 ROUNDS=0 READS=3 WRITES=4 HERO=2 JOINS_PAST_THE_QUEUE=1",
        "gets_in",
        CYCLE,
    ),
    # ---- another object in the place of one ----
    Search("resize", "CRASHES=0", model="resize.pml"),
    Search("resize-crash", "CRASHES=1", model="resize.pml"),
    Search("resize-crash-twice", "ROUNDS=1 PROCESSES=4 CRASHES=2", model="resize.pml"),
    Search("resize-name-first", "NAME_BEFORE_WORD=1", None, ASSERTION, "resize.pml"),
    Search("resize-word-is-enough", "WORD_IS_ENOUGH=1", None, ASSERTION, "resize.pml"),
    Search("resize-looks-first", "LOOKS_FIRST=1 CRASHES=0", None, ASSERTION, "resize.pml"),
    Search("resize-copies-late", "COPIES_LATE=1", None, ASSERTION, "resize.pml"),
)


class ModelError(Exception):
    """A search could not be made."""


def find_spin() -> str:
    """The spin on PATH, or Debian's package unpacked under build/, which needs no root."""
    found = shutil.which("spin")
    if found:
        return found
    home = BUILD / "spin"
    unpacked = home / "usr" / "bin" / "spin"
    if not unpacked.exists():
        home.mkdir(parents=True, exist_ok=True)
        try:
            run(["apt-get", "download", "spin"], home)
            run(["dpkg", "-x", str(next(home.glob("spin_*.deb"))), "."], home)
        except (ModelError, OSError, StopIteration) as error:
            raise ModelError(
                f"no spin: it is not on PATH, and apt-get download spin failed ({error}); "
                "install the package spin"
            ) from error
    return str(unpacked)


def run(command: list[str], where: Path) -> str:
    """Run a tool that must succeed, and return what it printed."""
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode:
        raise ModelError(f"{shlex.join(command)}: exit {done.returncode}\n{output}")
    return output


def switches(search: Search, *, events: bool) -> list[str]:
    """The -D options of a search, for spin."""
    return [f"-D{word}" for word in search.switches.split()] + ["-DEVENTS"] * events


def pan(search: Search, spin: str) -> str:
    """Generate the search, compile and run it; return pan's report."""
    where = BUILD / search.name
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(HERE, where, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    run([spin, "-a", *switches(search, events=True), search.model], where)
    options = ["-DNFAIR=3"] if search.ltl else ["-DSAFETY"]
    # -O0: optimizing would take more time than it saves
    options += ["-O0", f"-DMEMLIM={MEMORY_MB}"]
    run(["gcc", "-w", *options, "-o", "pan", "pan.c"], where)
    how = ["-a", "-f", "-N", search.ltl] if search.ltl else []
    return run(["./pan", "-w22", f"-m{DEPTH}", *how], where)


def judge(search: Search, report: str) -> str | None:
    """What is not as it should be, or None."""
    errors = re.search(r"errors: (\d+)", report)
    if not errors or "pan: error" in report:
        return "pan gave up"
    found = re.search(rf"^pan:1: ({ASSERTION}|{DEADLOCK}|{CYCLE})", report, re.MULTILINE)
    what = found[1] if found else None
    if int(errors[1]) != (search.fails is not None) or what != search.fails:
        return f"found: {what or 'nothing'}, expected: {search.fails or 'nothing'}"
    if not search.fails and re.search(r"max search depth|Search not completed|-DMEMLIM", report):
        return "the search was not exhaustive"
    return None


def number(pattern: str, report: str) -> int:
    found = re.search(pattern, report)
    return int(found[1]) if found else 0


def events_met(report: str) -> int:
    """The mask of events that pan printed as it exited."""
    found = re.search(r"^events: ([0-9a-f]+)$", report, re.MULTILINE)
    return int(found[1], 16) if found else 0


def all_events() -> dict[str, int]:
    text = (HERE / "events.pml").read_text()
    return {
        name: int(bit) for name, bit in re.findall(r"^#define (\w+) (\d+)$", text, re.MULTILINE)
    }


def replay(search: Search) -> str:
    """How to see a counterexample, step by step."""
    options = shlex.join(switches(search, events=True))
    return f"(cd {BUILD / search.name} && ./pan -r -n)  # built by spin -a {options} {search.model}"


def main(names: list[str]) -> int:
    spin = find_spin()
    chosen = [search for search in SEARCHES if not names or search.name in names]
    bad = 0
    met = 0
    began = time.monotonic()
    print(f"{'search':24} {'states':>9} {'depth':>7} {'seconds':>8}  outcome")
    for search in chosen:
        start = time.monotonic()
        try:
            report = pan(search, spin)
            wrong = judge(search, report)
        except (ModelError, subprocess.TimeoutExpired) as error:
            report, wrong = "", str(error)
        outcome = wrong or ("fails as it should" if search.fails else "holds")
        states = number(r"(\d+) states, stored", report)
        depth = number(r"depth reached (\d+)", report)
        seconds = time.monotonic() - start
        mark = "WRONG: " if wrong else ""
        print(f"{search.name:24} {states:9} {depth:7} {seconds:8.1f}  {mark}{outcome}", flush=True)
        if wrong:
            bad += 1
            print(f"    {replay(search)}")
        elif not search.fails:
            met |= events_met(report)
    missed = [name for name, bit in all_events().items() if not met >> bit & 1]
    if missed and not names:
        bad += 1
        print(f"WRONG: never happened: {', '.join(missed)}")
    print(f"{len(chosen)} searches, {bad} wrong, {time.monotonic() - began:.0f} seconds")
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ModelError as error:
        sys.exit(str(error))
