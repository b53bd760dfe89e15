"""examples/two_hosts.py, run as a user runs it; and what docs/one-host.md says."""

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest
from databases import binaries

from shm_async._postgresql.address import Terms

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/one-host.md").read_text()


def test_two_hosts_count_exactly_although_everything_breaks():
    binaries()
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        pytest.skip("a user without a name cannot start a server")
    done = subprocess.run(
        [sys.executable, ROOT / "examples/two_hosts.py", "--increments", "600"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "restarted the server" in done.stdout
    assert "each increment is there once" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("option", Terms.__dataclass_fields__)
def test_the_page_names_each_option(option: str):
    assert re.search(rf"`{option}=?|`{option}=|\b{option}=", PAGE), option


def test_the_page_leads_to_files_that_exist():
    for path in re.findall(r"`(examples/[\w.]+)`", PAGE):
        assert (ROOT / path).is_file(), path
