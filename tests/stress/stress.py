"""Processes of every kind on one region, while some are killed, stopped and cancelled at random.

python tests/stress/stress.py [--seconds 120] [--seed N] [--processes 6] [--layout managed|raw]
                       [--floods 0] [--bound S] [--no-upgrades] [--keep]

The workers (stress_workers.py) read and write, wait, nest, cancel, fork and give up; the
conductor, this process, kills them and starts others, and stops them for a while, some
of them where they hurt most: at the gate. All dice come from one seed, so that a run can be
repeated as far as the scheduler allows. The last fifth of the time is calm. At the end
everything must come to rest, nothing may be left behind, and the histories of all
processes must show that nobody was ever inside who must not (history.py, verdict.py). Exits with 1
if any of this fails.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import verdict
from history import Event, Kind, Process, Recorder, load
from stress_actors import CHILDREN, LENGTH, LOOKS, NEAR, Actor, Settings, Wish, Worker, repair
from stress_kernel import (
    SET_CHILD_SUBREAPER,
    SET_PDEATHSIG,
    children,
    control,
    family,
    gate_is_taken,
    is_free,
    is_stopped,
    standing,
)
from stress_workers import ROLE_NAMES, ROLES, run_worker

from shm_async import Region

CONDUCTOR = ROLE_NAMES.index("conductor")
CALM = 0.2  # the share of the time at the end in which nobody is killed or stopped
PAUSE = 0.03  # seconds, on average, between two things that the conductor does
STOP = 0.1  # seconds: the longest stop, but for a NAP
NAP = 0.5


class Failure(Exception):
    """Something other than the histories shows that the lock, or this program, is broken."""


@dataclass
class Running:
    number: int
    role: str
    pid: int


class Conductor:
    """Starts, stops and kills the workers of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.dice = random.Random(options.seed)
        self.directory = tempfile.mkdtemp(prefix="shm-async-stress-")
        self.name = f"shm-async-stress-{os.getpid()}"
        self.recorder = Recorder(self.directory, 0, CONDUCTOR)
        self.workers: list[Running] = []
        self.kills = 0
        self.stops: Counter[str] = Counter()
        self._numbers = iter(range(CHILDREN, 1 << 60, CHILDREN))
        self._roles = self._shuffled_roles()
        self._ended, self._ends = os.pipe()
        self.settings = Settings(
            name=self.name,
            layout=options.layout,
            directory=self.directory,
            seed=options.seed,
            deadline=time.monotonic() + options.seconds,
            upgrades=options.upgrades,
            ended=self._ended,
        )

    def _shuffled_roles(self) -> Iterator[str]:
        """Every role in turn, in an order of chance."""
        while True:
            yield from self.dice.sample(list(ROLES), len(ROLES))

    # ---- the run ---------------------------------------------------------------------------

    def run(self) -> int:
        """Do everything and return what has been counted to. Raises Failure."""
        control(SET_CHILD_SUBREAPER, 1)  # children of the killed become ours, to wait for them
        with Region.create(self.name, LENGTH, dtype="uint64", layout=self.options.layout):
            pass
        self.fd = os.open(f"/dev/shm/{self.name}", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(self.options.floods):
                self.start("flood")
            for _ in range(self.options.processes):
                self.start(next(self._roles))
            self.trouble()
            self.come_to_rest()
            self.nothing_is_held()
            self.let_go()
            return self.last_value()
        finally:
            self.clean_up()

    def trouble(self) -> None:
        """Kill and stop until the calm begins."""
        calm = self.settings.deadline - self.options.seconds * CALM
        while time.monotonic() < calm:
            time.sleep(self.dice.expovariate(1 / PAUSE))
            self.no_worker_failed()
            victim = self.dice.choice(self.workers)
            if self.dice.random() < 0.5:
                victim = self.at_the_gate() or victim
            if self.dice.random() < 0.7:
                self.stop(victim)
            else:
                self.replace(victim)
        self.recorder.note(Event.CALM)

    def start(self, role: str) -> None:
        number = next(self._numbers)
        sys.stdout.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self.be_worker(number, role, parent)
            finally:  # whatever happens, never go on as a second conductor
                os._exit(1)
        self.workers.append(Running(number, role, pid))

    def be_worker(self, number: int, role: str, parent: int) -> None:
        """In the child: keep nothing of the conductor's, and end when it ends."""
        os.close(self._ends)
        os.close(self.fd)
        self.recorder.silence()
        control(SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            run_worker(self.settings, number, role)

    def replace(self, worker: Running) -> None:
        """Kill it and start another; the floods live on, as nobody starves in a moment."""
        if worker.role != "flood":
            self.kill(worker)
            self.start(next(self._roles))

    def kill(self, worker: Running) -> None:
        self.recorder.note(Event.KILLING, value=worker.number)
        os.kill(worker.pid, signal.SIGKILL)
        self.ended(worker, os.waitpid(worker.pid, 0)[1], expected=-signal.SIGKILL)
        self.recorder.note(Event.DEAD, value=worker.number)
        self.kills += 1

    def ended(self, worker: Running, status: int, expected: int | None = None) -> None:
        self.workers.remove(worker)
        code = os.waitstatus_to_exitcode(status)
        if code != expected:
            raise Failure(f"worker {worker.number} ({worker.role}) ended with {code}")

    def stop(self, worker: Running) -> None:
        """Stop it for a while; a stopped one is killed now and then."""
        os.kill(worker.pid, signal.SIGSTOP)
        while not is_stopped(worker.pid):
            time.sleep(0.0002)
        where = standing(worker.pid)
        self.stops[where] += 1
        if where == "at the gate":
            self.nap(worker)
        else:
            time.sleep(self.moment())
        if self.dice.random() < 0.1:
            self.replace(worker)
        if worker in self.workers:
            os.kill(worker.pid, signal.SIGCONT)

    def nap(self, worker: Running) -> None:
        """Let it sleep at the gate, sometimes so long that the others must go past."""
        self.recorder.note(Event.STOPPED, value=worker.number)
        time.sleep(NAP if self.dice.random() < 0.05 else self.moment())
        self.recorder.note(Event.CONTINUED, value=worker.number)

    def moment(self) -> float:
        return self.dice.choice([0.001, 0.01, STOP]) * self.dice.random()

    def at_the_gate(self) -> Running | None:
        """One that blocks in flock: it stands at the gate, unless it is a rival."""
        rows = [row.split() for row in Path("/proc/locks").read_text().splitlines() if "->" in row]
        blocked = {word for row in rows for word in row}
        found = [worker for worker in self.workers if str(worker.pid) in blocked]
        return self.dice.choice(found) if found else None

    # ---- the end ---------------------------------------------------------------------------

    def no_worker_failed(self) -> None:
        for worker in list(self.workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self.ended(worker, status)

    def come_to_rest(self) -> None:
        """Wait until all workers have finished what they were doing."""
        until = self.settings.deadline + self.options.bound
        missing = list(self.workers)
        while missing:
            self.no_worker_failed()
            missing = [worker for worker in missing if not self._is_done(worker)]
            if time.monotonic() > until:
                self.explain(worker.pid for worker in missing)
                names = ", ".join(f"{each.number} ({each.role})" for each in missing)
                raise Failure(f"stuck {self.options.bound} s after the end: {names}")
            time.sleep(0.01)

    def _is_done(self, worker: Running) -> bool:
        return Path(f"{self.directory}/{worker.number}.done").exists()

    def explain(self, pids: Iterable[int]) -> None:
        """Have them and all that came of them show where they stand, and show who has the lock."""
        inode = f":{os.fstat(self.fd).st_ino} "
        rows = [row for row in Path("/proc/locks").read_text().splitlines() if inode in row]
        print("\n".join(rows), file=sys.stderr)
        for pid in [member for each in pids for member in family(each)]:
            print(f"---- {pid}:", file=sys.stderr, flush=True)
            for number in (signal.SIGUSR2, signal.SIGUSR1):
                os.kill(pid, number)
                time.sleep(0.3)

    def nothing_is_held(self) -> None:
        """All have finished and all are alive: the lock and the gate must be free."""
        self.wait_for_orphans()
        for _ in range(LOOKS):
            if not gate_is_taken(self.fd) and is_free(self.fd):
                return
            time.sleep(0.001)
        self.explain(worker.pid for worker in self.workers)
        what = "stands at the gate" if gate_is_taken(self.fd) else "has the lock"
        raise Failure(f"somebody {what}, and nobody waits or is inside")

    def wait_for_orphans(self) -> None:
        """Children whose parents were killed: they end by themselves, soon."""
        ours = {worker.pid for worker in self.workers}
        until = time.monotonic() + self.options.bound
        while orphans := set(children(os.getpid())) - ours:
            for pid in orphans:
                found, status = os.waitpid(pid, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status)
                if found and code not in (0, -signal.SIGKILL):
                    raise Failure(f"an orphan ended with {code}")
            if time.monotonic() > until:
                self.explain(orphans)
                raise Failure(f"orphans are stuck: {orphans}")
            time.sleep(0.001)

    def let_go(self) -> None:
        """Everybody closes its region, looks for leaks, and ends."""
        os.close(self._ends)
        self._ends = -1
        until = time.monotonic() + self.options.bound
        while self.workers:
            worker = self.workers[0]
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self.ended(worker, status, expected=0)
            elif time.monotonic() > until:
                self.explain([worker.pid])
                raise Failure(f"worker {worker.number} ({worker.role}) does not end")
            else:
                time.sleep(0.001)

    def last_value(self) -> int:
        """What all this has counted to, read as a newcomer; the control page is sound again."""
        dtype = "uint64" if self.options.layout == "raw" else None
        with Region.attach(self.name, LENGTH, dtype=dtype) as region:
            with (hold := region.write_lock(timeout=1, recover=True)):
                if hold.owner_died:
                    repair(hold)
            worker = Worker(self.settings, next(self._numbers), CONDUCTOR)
            worker.policy = "raise"
            reader = Actor(worker)
            with Wish(reader, Kind.READ) as wish, region.read_lock(timeout=1) as view:
                with wish.inside(view):
                    value = view[NEAR]
            if region.generation is not None and region.generation % 2:
                raise Failure(f"nobody writes, and the generation is {region.generation}")
        entries = [entry for entry in os.listdir("/dev/shm") if self.name in entry]
        if entries != [self.name]:
            raise Failure(f"left in /dev/shm: {entries}")
        return value

    def clean_up(self) -> None:
        for worker in list(self.workers):  # only after a failure
            with contextlib.suppress(Failure):  # ... of which this is one more
                self.kill(worker)
        for pid in children(os.getpid()):  # theirs, ours by now
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.unlink(f"/dev/shm/{self.name}")
        for fd in (self.fd, self._ended, self._ends):
            if fd >= 0:
                os.close(fd)
        self.recorder.close()


# ---- the summary ---------------------------------------------------------------------------


def summary(conductor: Conductor, processes: list[Process], report: verdict.Report) -> str:
    roles = {process.number: ROLE_NAMES[process.role] for process in processes}
    holds = [hold for process in processes for hold in process.holds if hold.acquired]
    shares = verdict.count_by(holds, lambda hold: roles[hold.process])
    shares.pop("conductor", None)  # its last look
    forks = sum(role == "child" for role in roles.values())
    own = sum(role == "conductor" for role in roles.values())
    refused = sum(process.refused for process in processes)
    longest = report.longest
    lines = [
        f"{report.reads} reads ({report.shared} beside another process's), {report.writes} writes,"
        f" {report.waited} of them waited for; {report.cancelled} waits cut short",
        f"{report.converted} conversions, {report.kept} without letting go"
        if report.converted
        else "no conversions",
        f"{len(processes) - forks - own} workers, {forks} forks, {conductor.kills} kills,"
        f" {report.killed_inside} died inside, {report.told} found what these left,"
        f" {refused} refused to wait for themselves",
        f"stopped: {', '.join(f'{count} {place}' for place, count in conductor.stops.items())}",
        f"longest wait {report.max_wait:.3f} s"
        + (f" ({roles[longest.process]})" if longest else "")
        + f", at most {report.overtaken} holds in between",
        "shares: " + ", ".join(f"{role} {count}" for role, count in sorted(shares.items())),
    ]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--layout", choices=["managed", "raw"], default="managed")
    parser.add_argument("--floods", type=int, default=0, help="processes of restless readers")
    parser.add_argument("--bound", type=float, default=10, help="seconds in which waits must end")
    parser.add_argument("--upgrades", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--keep", action="store_true", help="keep the histories of a good run, too")
    return parser.parse_args(arguments)


def import_all() -> None:
    """Import here, once, what each worker would, and none while another thread of it forks."""
    for backend in ("asyncio", "trio"):
        anyio.run(anyio.sleep, 0, backend=backend)
    anyio.run(anyio.sleep, 0, backend_options={"use_uvloop": True})


def main() -> int:
    options = parse()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clean up on the way
    import_all()
    conductor = Conductor(options)
    final, problems = None, []
    try:
        final = conductor.run()
    except Failure:
        problems = [traceback.format_exc()]
    processes = load(conductor.directory)
    report = verdict.check(processes, final, options.bound, marked=options.layout == "managed")
    problems += [str(violation) for violation in report.violations]
    print(summary(conductor, processes, report))
    if problems or options.keep:
        print(f"histories: {conductor.directory}")
    else:
        shutil.rmtree(conductor.directory)
    if problems:
        print(*problems, f"FAILED with seed {options.seed}", sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
