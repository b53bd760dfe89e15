"""Containers that share /dev/shm, as docs/containers.md has them: namespaces, without an engine."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from privileges import needs

PAGE = Path(__file__).parents[2] / "docs" / "containers.md"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not PAGE.exists(), reason="no docs in this tree"),
    needs("a mount", "a pid namespace"),
]


@pytest.fixture
def program() -> Iterator[str]:
    """The program of the page, with a name of this test alone."""
    [program] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    name = f"containers-{os.getpid()}"
    yield program.replace('"jobs"', f'"{name}"')
    Path(f"/dev/shm/{name}").unlink(missing_ok=True)


def run_in_a_container(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with processes, mounts and System V keys of its own."""
    container = ["unshare", "--pid", "--mount", "--ipc", "--fork", "--mount-proc"]
    return subprocess.run(
        [*container, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


def test_two_containers_count_together(program: str):
    assert run_in_a_container(program).stdout == "1\n"
    assert run_in_a_container(program).stdout == "2\n"


def test_a_container_hears_that_a_writer_died_in_another(program: str):
    dies = program.replace("print(", "import os; os._exit(9); print(")  # 1 ignores its own SIGKILL
    recovers = program.replace("write_lock()", "write_lock(recover=True)")
    assert run_in_a_container(dies).returncode == 9
    refused = run_in_a_container(program).stderr
    assert "OwnerDiedError" in refused
    assert "pid namespace" in refused
    assert run_in_a_container(recovers).stdout == "2\n"
