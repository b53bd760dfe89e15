"""`shm-async doctor` and `bench`: what stands in the way, and what the lock costs."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from dying import writer_dies

from shm_async import Region, cli
from shm_async._cli import checks_kernel, checks_memory, checks_place, doctor
from shm_async._cli.finding import BAD, NOTE, OK, Finding


def test_each_finding_that_is_not_ok_has_a_fix():
    found = [*checks_memory.findings(), *checks_kernel.findings(), *checks_place.findings()]
    assert {each.check for each in found} >= {
        "/dev/shm", "cgroup", "memlock", "open files", "System V", "file system", "namespaces",
        "logind", "regions", "kernel", "/proc", "inotify", "signal",
    }  # fmt: skip
    assert all(each.fix for each in found if each.state == BAD)


def test_json_is_one_array(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor", "--json"]) in (0, 4)
    found = json.loads(capsys.readouterr().out)
    assert {tuple(each) for each in found} == {("check", "state", "text", "fix")}


def test_a_finding_that_is_bad_is_status_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for module in (checks_memory, checks_place, checks_kernel):
        monkeypatch.setattr(module, "findings", list)
    assert cli.main(["doctor"]) == 0
    bad = Finding("thing", BAD, "is broken", ("mend it", "or buy another"))
    monkeypatch.setattr(checks_memory, "findings", lambda: [bad])
    assert cli.main(["doctor"]) == doctor.UNHEALTHY
    assert capsys.readouterr().out.splitlines() == [
        "bad   thing         is broken",
        "      fix:          mend it",
        "                    or buy another",
    ]


# ---- room ----------------------------------------------------------------------------------------


def room(total: int, free: int) -> SimpleNamespace:
    return SimpleNamespace(f_blocks=total, f_bavail=free, f_bfree=free, f_frsize=1)


@pytest.mark.parametrize(
    ("total", "free", "state"),
    [(8 << 30, 7 << 30, OK), (64 << 20, 60 << 20, NOTE), (8 << 30, 1 << 20, BAD), (0, 0, OK)],
)
def test_a_small_or_full_place_is_told(monkeypatch: pytest.MonkeyPatch, total, free, state):
    monkeypatch.setattr(checks_memory.os, "statvfs", lambda _: room(total, free))
    found = checks_memory._room()
    assert found.state == state
    assert any("--shm-size" in line for line in found.fix) == (state != OK)
    assert any("medium: Memory" in line for line in found.fix) == (state != OK)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"/sys/fs/cgroup/memory.max": "max"}, None),
        ({"/sys/fs/cgroup/memory.max": "1000"}, 1000),
        (
            {
                "/proc/self/cgroup": "0::/a/b",
                "/sys/fs/cgroup/a/memory.max": "500",
                "/sys/fs/cgroup/a/b/memory.max": "900",
            },
            500,
        ),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "700"}, 700),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
    ],
)
def test_the_lowest_limit_of_the_control_groups_counts(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], limit: int | None
):
    monkeypatch.setattr(checks_memory, "first_line", files.get)
    assert checks_memory._memory_limit() == limit


def test_a_limit_that_the_place_could_exceed_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks_memory, "_memory_limit", lambda: 1 << 20)
    monkeypatch.setattr(checks_memory.os, "statvfs", lambda _: room(1 << 30, 1 << 30))
    assert checks_memory._control_group().state == NOTE


def test_a_low_limit_of_locked_memory_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks_memory.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(checks_memory.resource, "getrlimit", lambda _: (65536, 65536))
    found = checks_memory._locked_memory()
    assert found.state == NOTE
    assert "64K" in found.text
    monkeypatch.setattr(
        checks_memory.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2
    )
    assert checks_memory._locked_memory().state == OK


# ---- place ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "removes"),
    [
        ("", True),
        ("[Login]\n#RemoveIPC=no\n", True),
        ("[Login]\nRemoveIPC=no\n", False),
        ("[Login]\nRemoveIPC=yes\n", True),
        ("nonsense", True),
        ("[Login]\nRemoveIPC=perhaps\n", True),
    ],
)
def test_what_logind_does_is_read_from_its_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, removes: bool
):
    (tmp_path / "a.conf").write_text("[Login]\nRemoveIPC=yes\n")
    (tmp_path / "b.conf").write_text(text)
    monkeypatch.setattr(checks_place, "LOGIND", (f"{tmp_path}/*.conf",))
    assert checks_place._remove_ipc() == removes


def test_regions_that_need_a_hand_are_told(region: Region, monkeypatch: pytest.MonkeyPatch):
    """Those of others may be many, and only some of all are named."""
    everything = checks_place.inspection.inspect
    monkeypatch.setattr(
        checks_place.inspection,
        "inspect",
        lambda: [each for each in everything() if each.name == region.name],
    )
    writer_dies(region)
    found = [each for each in checks_place._regions() if each.state == BAD]
    assert any(region.name in each.text for each in found)


@pytest.mark.parametrize(("kind", "state"), [("tmpfs", OK), ("ext4", NOTE), (None, BAD)])
def test_another_file_system_is_told(monkeypatch: pytest.MonkeyPatch, kind, state):
    monkeypatch.setattr(checks_place, "_file_system", lambda _: kind)
    assert checks_place._mount().state == state


# ---- kernel --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "state"), [("6.1.0-9-amd64", OK), ("4.4.0", OK), ("3.10.0-1160.el7", BAD)]
)
def test_an_old_kernel_is_told(monkeypatch: pytest.MonkeyPatch, release: str, state: str):
    monkeypatch.setattr(checks_kernel.os, "uname", lambda: SimpleNamespace(release=release))
    assert checks_kernel._version().state == state


def test_low_limits_of_inotify_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks_kernel, "first_line", lambda _: "10")
    assert [each.state for each in checks_kernel._inotify()] == [NOTE, NOTE]
    monkeypatch.setattr(checks_kernel, "first_line", lambda _: None)
    assert [each.state for each in checks_kernel._inotify()] == [BAD]


@pytest.mark.parametrize(("value", "state"), [("", "ok"), ("off", "note"), ("nonsense", "bad")])
def test_the_chosen_signal_is_told(value: str, state: str):
    done = subprocess.run(
        [sys.executable, "-m", "shm_async", "doctor", "--json"],
        env={**os.environ, "SHM_ASYNC_SIGNAL": value},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    [found] = [each for each in json.loads(done.stdout) if each["check"] == "signal"]
    assert found["state"] == state


# ---- bench ---------------------------------------------------------------------------------------


@pytest.mark.once
def test_bench_measures_and_leaves_nothing():
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-m", "shm_async", "bench", "--seconds", "0.05", "--json"],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert len(found) == 7
    assert found[0]["times_flock"] == 1
    assert all(each["microseconds"] > 0 for each in found)
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "bench" in name]
