"""examples/two_hosts.py, run as a user runs it; and what docs/one-host.md says."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from databases import binaries
from privileges import needs

from shm_async._postgresql.address import Terms

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/one-host.md").read_text()


@pytest.fixture
def command() -> list[str]:
    """The example's; skips the test where a server cannot run."""
    binaries()
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        pytest.skip("a user without a name cannot start a server")
    return [sys.executable, str(ROOT / "examples/two_hosts.py")]


def run(command: list[str], **options: Any) -> str:
    """What it prints; it has to count exactly."""
    done = subprocess.run(
        [*command, "--increments", "600"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restarted the server" in done.stdout
    assert "each increment is there once" in done.stdout
    assert not done.stderr
    return done.stdout


def test_two_hosts_count_exactly_although_everything_breaks(command: list[str]):
    printed = run([*command, "--plain"])
    assert "each host is a plain process: as asked for" in printed
    assert "cut all connections" in printed


@pytest.mark.long
@needs("network namespaces")
def test_two_networks_count_exactly_although_a_cable_is_cut(command: list[str]):
    printed = run(command)
    assert "each host is a network namespace" in printed
    assert "cut host south off" in printed


@pytest.mark.long
def test_without_the_programs_for_networks_it_takes_processes_and_says_so(
    command: list[str], tmp_path: Path
):
    for program in ("chmod", "sh"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    printed = run(command, env={**os.environ, "PATH": str(tmp_path)})
    reason = "there is no program" if os.geteuid() == 0 else "network namespaces are for root"
    assert f"each host is a plain process: {reason}" in printed


def network_of(pid: int | str) -> str:
    """Empty: it has ended."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""


def networks_below(pid: int) -> set[str]:
    """Those of the children of a process, unless they are its own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {network_of(child) for child in children} - {network_of(pid), ""}


@pytest.mark.long
@needs("network namespaces")
@pytest.mark.parametrize(
    ("how", "begin"), [(signal.SIGINT, "after"), (signal.SIGTERM, "each host is a network")]
)
def test_one_that_is_stopped_leaves_no_network_and_no_process(
    command: list[str], how: signal.Signals, begin: str
):
    with subprocess.Popen(
        [*command, "--increments", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith(begin):
                assert process.poll() is None
            networks = networks_below(process.pid)
            process.send_signal(how)
            assert process.wait(20) == 128 + how
        finally:
            process.kill()
    assert len(networks) == 3
    everything = [path.name for path in Path("/proc").glob("[0-9]*")]
    assert [pid for pid in everything if network_of(pid) in networks] == []


@pytest.mark.parametrize("option", Terms.__dataclass_fields__)
def test_the_page_names_each_option(option: str):
    assert re.search(rf"`{option}=?|`{option}=|\b{option}=", PAGE), option


def test_the_page_leads_to_files_that_exist():
    for path in re.findall(r"`(examples/[\w.]+)`", PAGE):
        assert (ROOT / path).is_file(), path
