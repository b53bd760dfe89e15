"""`shm-async lock`: like flock(1), and neither the command nor the lock outlives the other."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dying import writer_dies
from privileges import needs
from programs import path_of_tests
from rivals import Rival
from waits import wait_until

import shm_async
from shm_async import OwnerDiedError, Region

LOCK = [sys.executable, "-m", "shm_async", "lock"]


FOR_EVER = "echo inside; exec sleep 600"


def lock(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LOCK, *arguments],
        capture_output=True, text=True, timeout=40, check=False, **options,
    )  # type: ignore[call-overload]  # fmt: skip


@contextlib.contextmanager
def locked(*arguments: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """The command while what it runs says that it is inside."""
    with subprocess.Popen(
        [*LOCK, *arguments], stdout=subprocess.PIPE, text=True, **options
    ) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "inside\n"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def children(pid: int) -> list[int]:
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == pid and fields[0] != b"Z":
                found.append(int(entry))
    return found


def is_free(region: Region) -> bool:
    return not shm_async.inspect(region.name)[0].holders


def gone(pid: int) -> bool:
    try:
        return b") Z" in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # its new parent has reaped it
        return True


# ---- like flock(1) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["exit 0", "exit 7", "kill -TERM $$", "kill -KILL $$", "exec /nobody/has/this"]
)
def test_the_exit_status_is_the_commands(region: Region, line: str):
    ours = lock(region.name, "sh", "-c", line).returncode
    if shutil.which("flock"):
        theirs = subprocess.run(
            ["flock", f"/dev/shm/{region.name}", "sh", "-c", line], check=False,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert ours == theirs.returncode
    assert is_free(region)


def test_what_cannot_be_executed_is_69(region: Region):
    done = lock(region.name, "nobody-has-this-command")
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1
    assert "cannot execute nobody-has-this-command" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["NAME", "-c", "echo done"],
        ["-c", "echo done", "NAME"],
        ["NAME", "--", "echo", "done"],
        ["NAME", "echo", "done"],
        ["-x", "-o", "-w", "5", "--", "NAME", "echo", "done"],
        ["-e", "-n", "NAME", "sh", "-c", "echo done"],
    ],
)
def test_the_command_may_be_given_in_each_way(region: Region, arguments: list[str]):
    done = lock(*(region.name if word == "NAME" else word for word in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_options_of_the_command_are_its_own(region: Region):
    assert lock(region.name, "echo", "-n", "-s", "--json").stdout == "-s --json"


@pytest.mark.parametrize(
    "arguments", [[], ["-s", "-x"], ["-E", "256"], ["-c", "a", "NAME", "b"], ["NAME"], ["-u"]]
)
def test_nonsense_is_a_usage_error(region: Region, arguments: list[str]):
    done = lock(*(region.name if word == "NAME" else word for word in arguments))
    assert done.returncode == 2


def test_a_region_that_is_not_there_is_not_made(name: str):
    done = lock(name, "true")
    assert (done.returncode, done.stdout) == (1, "")
    assert not os.path.exists(f"/dev/shm/{name}")


def test_without_waiting_a_lock_that_is_taken_is_1_or_what_was_asked_for(
    region: Region, rival: Rival
):
    rival.do("exclusive")
    done = lock("-n", region.name, "echo", "never")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert lock("-n", "-E", "75", region.name, "true").returncode == 75
    assert lock("-s", "-n", "-E", "0", region.name, "false").returncode == 0


def test_a_wait_that_was_in_vain_says_who_holds_the_lock(region: Region, rival: Rival):
    rival.do("exclusive")
    done = lock("-w", "0.05", "-E", "9", region.name, "true")
    assert done.returncode == 9
    assert f"held by {rival.process.pid} " in done.stderr


def test_readers_share_and_writers_do_not(region: Region):
    with locked("-s", region.name, "-c", FOR_EVER):
        assert lock("-s", "-n", region.name, "echo", "shared").stdout == "shared\n"
        assert lock("-n", region.name, "true").returncode == 1


def test_flock_and_lock_exclude_each_other(region: Region, rival: Rival):
    with locked(region.name, "-c", FOR_EVER):
        assert rival.do("try-exclusive") == "busy"
    rival.do("exclusive")
    assert lock("-n", region.name, "true").returncode == 1


def test_a_key_can_be_locked(sysv_key: int):
    with Region.create(sysv_key, 3) as region:
        assert lock(f"{sysv_key:#x}", "echo", "done").stdout == "done\n"
        region.unlink()


@pytest.mark.long
def test_many_count_in_a_file_exactly(region: Region, tmp_path: Path):
    file = tmp_path / "count"
    file.write_text("0")
    line = f"n=$(cat {file}); echo $((n + 1)) > {file}"
    many = [subprocess.Popen([*LOCK, region.name, "-c", line]) for _ in range(20)]
    assert [process.wait(50) for process in many] == [0] * 20
    assert file.read_text() == "20\n"


# ---- neither outlives the other ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["-x", "-s"])
def test_the_lock_is_free_when_the_command_was_killed(region: Region, kind: str):
    with locked(kind, region.name, "-c", FOR_EVER) as process:
        [guard] = children(process.pid)
        [inside] = children(guard)
        os.kill(inside, signal.SIGKILL)
        assert process.wait(10) == 128 + signal.SIGKILL
    assert is_free(region)


def test_the_lock_is_free_although_the_command_left_something_running(region: Region):
    done = lock(region.name, "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    left = int(done.stdout)
    try:
        assert is_free(region)
        assert not gone(left)
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("line", [FOR_EVER, "echo inside; sleep 600; true"])
def test_when_it_is_killed_the_command_ends_before_the_lock_is_free(region: Region, line: str):
    with locked(region.name, "-c", line) as process:
        [guard] = children(process.pid)
        everyone = children(guard)
        everyone += [pid for parent in everyone for pid in children(parent)]
        process.kill()
        process.wait(10)
        wait_until(lambda: is_free(region))
        assert all(gone(pid) for pid in everyone)
    assert shm_async.inspect(region.name)[0].state == "owner died"


def test_what_the_command_had_left_to_itself_is_not_killed(region: Region):
    line = "(sleep 600 >/dev/null 2>&1 & echo $! >&3); echo inside; exec sleep 600"
    read, write = os.pipe()
    with locked(region.name, "-c", f"exec 3>/dev/fd/{write}; {line}", pass_fds=[write]) as process:
        left = int(os.read(read, 20))
        [guard] = children(process.pid)
        wait_until(lambda: left in children(guard))  # adopted
        process.kill()
        process.wait(10)
        wait_until(lambda: is_free(region))
    os.close(read), os.close(write)
    assert not gone(left)
    os.kill(left, signal.SIGKILL)


def test_when_its_guard_is_killed_the_lock_is_free_and_the_command_ends(region: Region):
    with locked(region.name, "-c", FOR_EVER) as process:
        [guard] = children(process.pid)
        [inside] = children(guard)
        os.kill(guard, signal.SIGKILL)
        assert process.wait(10) == 128 + signal.SIGKILL
        assert is_free(region)
        wait_until(lambda: gone(inside))


TRAPS = """
trap 'echo got; exit 3' {word}
echo inside
while :; do sleep 0.01; done
"""


@pytest.mark.parametrize("word", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM"])
def test_signals_are_passed_on(region: Region, word: str):
    with locked(region.name, "-c", TRAPS.format(word=word)) as process:
        process.send_signal(getattr(signal, f"SIG{word}"))
        assert process.stdout is not None
        assert process.stdout.read() == "got\n"
        assert process.wait(10) == 3
    assert is_free(region)


@pytest.mark.parametrize("word", ["INT", "TERM"])
def test_a_command_that_dies_of_a_signal_passed_on_is_told(region: Region, word: str):
    number = getattr(signal, f"SIG{word}")
    with locked(region.name, "-c", FOR_EVER) as process:
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    assert is_free(region)
    with region.write_lock():  # nobody is told of a death
        pass


def test_what_is_ignored_stays_ignored(region: Region):
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    line = "trap 'exit 3' HUP; kill -HUP $$; exit 0"
    assert lock(region.name, "-c", line, preexec_fn=ignore).returncode == 0


def test_the_command_has_no_signal_blocked_or_ignored(region: Region):
    done = lock(region.name, "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    of_libc = 1 << 31 | 1 << 32  # 32 and 33: posix_spawn, with which make starts us, ignores them
    found = [int(line.split()[1], 16) for line in done.stdout.splitlines()]
    assert [signals & ~of_libc for signals in found] == [0, 0]


@pytest.mark.parametrize("word", ["INT", "TERM", "KILL"])
def test_a_wait_can_be_ended(region: Region, rival: Rival, word: str):
    number = getattr(signal, f"SIG{word}")
    rival.do("exclusive")
    with subprocess.Popen([*LOCK, region.name, "true"]) as process:
        wait_until(lambda: bool(shm_async.inspect(region.name)[0].waiters))
        [guard] = children(process.pid)
        process.send_signal(number)
        assert process.wait(10) == (-number if word == "KILL" else 128 + number)
        wait_until(lambda: gone(guard))
    assert shm_async.inspect(region.name)[0].waiters == ()


# ---- the death of others -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["-x", "-s"])
def test_a_death_refuses_nobody_and_is_not_forgotten(region: Region, kind: str):
    pid = writer_dies(region)
    done = lock(kind, region.name, "echo", "inside")
    assert (done.returncode, done.stdout) == (0, "inside\n")
    assert ("the last writer died" in done.stderr) == (kind == "-x")
    with pytest.raises(OwnerDiedError) as caught, region.read_lock():
        pass
    assert caught.value.pid == pid


def test_others_see_that_somebody_writes(region: Region):
    before = region.generation
    with locked(region.name, "-c", FOR_EVER) as process:
        [guard] = children(process.pid)
        [info] = shm_async.inspect(region.name)
        assert (info.state, info.holders[0].pid) == ("writing", guard)
        assert info.holders[0].since is not None
        process.terminate()
        process.wait(10)
    assert region.generation == before + 2


READS = """
import os, sys
import shm_async.cli, shm_async._cli.locking, shm_async._cli.parser, shm_async._cli.using
shm_async._show_all()
shm_async._cli.parser.make_parser()  # what another user may not import is loaded by now
os.setgroups([]), os.setgid(12345), os.setuid(12345)
from shm_async.cli import main
sys.exit(main(sys.argv[1:]))
"""


@needs("another user")
def test_who_may_only_read_can_share_the_lock(name: str):
    with Region.create(name, 4, mode=0o644):
        how = {"env": {**os.environ, "PYTHONPATH": path_of_tests()}, "capture_output": True}

        def run(*arguments: str) -> int:
            command = [sys.executable, "-c", READS, "lock", *arguments]
            return subprocess.run(command, check=False, timeout=30, **how).returncode

        assert run("-s", name, "true") == 0
        assert run(name, "true") == 3
