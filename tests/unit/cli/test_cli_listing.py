"""`shm-async ls`, `info` and `holders`: what they print, and how they end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dying import writer_dies
from rivals import Rival
from waits import wait_until

from shm_async import Region, cli
from shm_async._cli import table
from shm_async._cli.listing import COLUMNS
from shm_async._cli.table import Column, lines_of
from shm_async._cli.words import duration, printable, size

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command here: its exit status, and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main(arguments)
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return run


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "shm_async", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **options,  # type: ignore[call-overload]
    )


# ---- ls ----------------------------------------------------------------------------------


def test_ls_has_a_line_for_each_region(run: Run, region: Region):
    with region.write_lock():
        status, out, _ = run("ls", region.name)
    head, line = out.splitlines()
    assert status == 0
    assert head.split() == [column.head for column in COLUMNS]
    assert line.split()[:4] == [region.name, "8.0K", "8", "uint64"]
    assert line.endswith(" writing")
    assert f"{os.getpid()} " in line


def test_ls_json_is_one_array_with_stable_keys(run: Run, region: Region):
    status, out, _ = run("ls", "--json", region.name)
    [found] = json.loads(out)
    assert status == 0
    assert list(found) == [
        "name", "kind", "key", "id", "linked", "size", "allocated", "layout", "nbytes", "dtype",
        "shape", "uid", "user", "gid", "mode", "processes", "complete", "attachments", "holders",
        "waiters", "generation", "writes", "written_ago", "state", "problem",
    ]  # fmt: skip
    assert found["processes"] == [
        {
            "pid": os.getpid(),
            "command": Path("/proc/self/comm").read_text().strip(),
            "mapped": True,
            "descriptors": None,
        }
    ]
    assert (found["mode"], found["shape"], found["kind"]) == ("0600", [8], "posix")


def test_ls_without_regions_prints_its_head_alone(run: Run):
    status, out, _ = run("ls", "nobody-has-this-name")
    assert (status, out.count("\n"), out.split()[0]) == (0, 1, "NAME")
    assert json.loads(run("ls", "--json", "nobody-has-this-name")[1]) == []


def test_ls_quiet_prints_names_only(run: Run, region: Region):
    assert run("ls", "-q", region.name)[1] == f"{region.name}\n"


def test_ls_managed_leaves_out_what_others_made(run: Run, region: Region, name: str):
    other = Path(f"/dev/shm/{region.name}-raw")
    other.write_bytes(b"x")
    try:
        names = run("ls", "-q", f"{region.name}*")[1].split()
        assert names == [region.name, other.name]
        assert run("ls", "-q", "--managed", f"{region.name}*")[1].split() == [region.name]
    finally:
        other.unlink()


def test_ls_sorts(run: Run, region: Region):
    with Region.create(f"{region.name}-b", 4096 * 9) as large:
        pattern = f"{region.name}*"
        assert run("ls", "-q", "--sort", "size", pattern)[1].split() == [large.name, region.name]
        assert run("ls", "-q", "--sort", "name", pattern)[1].split() == [region.name, large.name]
        large.unlink()


def test_ls_refuses_to_sort_by_what_it_does_not_know(run: Run):
    status, _, err = run("ls", "--sort", "colour")
    assert status == 2
    assert "invalid choice: 'colour'" in err


# ---- info and holders ----------------------------------------------------------------------


def test_info_shows_the_control_page_field_by_field(run: Run, region: Region):
    status, out, _ = run("info", region.name)
    assert status == 0
    assert "  creator_pid     " + str(os.getpid()) in out
    assert "nothing: all is well" in out


def test_info_json_has_the_control_page_and_advice(run: Run, region: Region):
    writer_dies(region)
    found = json.loads(run("info", "--json", f"/{region.name}")[1])
    assert found["control"]["dtype"] == "uint64"
    assert found["state"] == "owner died"
    assert "may be half-written" in found["advice"][0]
    assert found["processes"][0]["descriptors"]


def test_info_of_a_key(run: Run, sysv_key: int):
    with Region.create(sysv_key, 3) as region:
        for name in ([f"{sysv_key:#x}"], ["--key", str(sysv_key)]):
            assert f"name        {region.name}" in run("info", *name)[1]
        region.unlink()


def test_info_says_how_to_wake_a_stopped_holder(run: Run, region: Region, rival: Rival):
    rival.do("exclusive")
    os.kill(rival.process.pid, 19)
    try:
        wait_until(lambda: f"kill -CONT {rival.process.pid}" in run("info", region.name)[1])
    finally:
        os.kill(rival.process.pid, 18)


def test_holders_shows_who_has_the_lock_and_who_waits(run: Run, region: Region, rival: Rival):
    with region.write_lock():
        rival.send("exclusive")
        wait_until(rival.is_blocked)
        first, second = json.loads(run("holders", "--json", region.name)[1])
        table_of = run("holders", region.name)[1].splitlines()
    rival.finish()
    assert (first["pid"], first["kind"], first["waiting"]) == (os.getpid(), "write", False)
    assert first["seconds"] >= 0
    assert (second["pid"], second["waiting"]) == (rival.process.pid, True)
    assert [line.split()[-2] for line in table_of[1:]] == ["holds", "waits"]


@pytest.mark.parametrize("what", ["info", "holders"])
def test_a_region_that_is_not_there_is_one_line_and_status_1(run: Run, what: str):
    status, out, err = run(what, "nobody-has-this-name")
    assert (status, out) == (1, "")
    assert err == (
        "shm-async: nobody-has-this-name: no such region: `shm-async ls` lists all regions\n"
    )


@pytest.mark.parametrize(
    "arguments", [["a/b"], [""], ["."], ["--key", "x"], ["0x0"], ["0x123456789"], ["n" * 256]]
)
def test_a_bad_name_is_one_line_and_status_2(run: Run, arguments: list[str]):
    status, _, err = run("info", *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert "Traceback" not in err


# ---- the terminal ----------------------------------------------------------------------------


def test_no_name_or_command_reaches_the_terminal_raw(run: Run, name: str):
    strange = f"{name}\x1b[31m\nx"
    Path(f"/dev/shm/{strange}").write_bytes(b"x")
    try:
        out = run("ls", f"{name}*")[1]
        assert out.count("\n") == 2
        assert f"{name}\\x1b[31m\\nx" in out
        assert "\x1b" not in run("info", strange)[1]
    finally:
        os.unlink(f"/dev/shm/{strange}")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_is_never_wider_than_the_terminal(width: int):
    rows = [[f"name-{i}" * 20, "8.0K", "1 uint8", "held by one", "idle"] for i in range(3)]
    columns = [Column("NAME"), *(Column(head, 9 - i) for i, head in enumerate("ABCD"))]
    lines = lines_of(columns, rows, width)
    assert all(len(line) <= width for line in lines)
    assert ("…" in lines[1]) == (width < 200)


def test_a_narrow_table_leaves_out_what_matters_least():
    columns = [Column("NAME"), Column("MODE", 2), Column("STATE", 1)]
    rows = [["a-long-name", "0600", "owner died"]]
    assert lines_of(columns, rows, None)[0].split() == ["NAME", "MODE", "STATE"]
    assert lines_of(columns, rows, 24)[0].split() == ["NAME", "STATE"]
    assert lines_of(columns, rows, 8)[1] == "a-long-…"


def test_a_reader_that_goes_away_is_no_noise(region: Region):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "shm_async", "ls"],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_python_m_is_the_command(region: Region):
    done = command("ls", "-q", region.name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{region.name}\n", "")


def test_no_command_is_a_usage_error():
    done = command()
    assert done.returncode == 2
    assert "usage: shm-async" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "nothing"], ["info", "nothing"]])
def test_looking_imports_no_event_loop(arguments: list[str]):
    program = f"""
import sys
from shm_async.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print({{"asyncio", "anyio", "rich", "trio", "hashlib", "shm_async._region"}} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert table.wants_colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not table.wants_colour()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(table, "is_terminal", lambda: False)
    assert not table.wants_colour()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (10240, "10K"), (5 << 30, "5.0G"), (None, "?")],
)
def test_sizes(count: int | None, text: str):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.251, "0.25s"), (12.9, "12s"), (200, "3m20s"), (18600, "5h10m"), (702000, "8d3h")],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_what_cannot_be_printed_is_escaped():
    assert printable("a\x1b\udcff\u202eb") == "a\\x1b\\udcff\\u202eb"
    assert printable("größe") == "größe"
