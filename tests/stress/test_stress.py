"""The short form of stress.py, with fresh dice each time; SHM_ASYNC_STRESS_SEED repeats a run."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import shm_async

pytestmark = pytest.mark.long

SEED = os.environ.get("SHM_ASYNC_STRESS_SEED")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("layout", ["managed", "raw"])
@pytest.mark.parametrize("floods", [0, 2])
def test_nobody_is_inside_who_must_not_be(layout: str, floods: int):
    seed = SEED or str(random.SystemRandom().randrange(1 << 32))
    print(f"SHM_ASYNC_STRESS_SEED={seed}")
    program = Path(__file__).with_name("stress.py")
    command = [sys.executable, str(program), "--seed", seed, "--layout", layout]
    package = str(Path(shm_async.__file__).parents[1])  # the one that pytest tests
    process = subprocess.Popen(
        [*command, "--floods", str(floods), "--seconds", "1.5", "--processes", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": package},
    )
    with process:
        try:
            output, _ = process.communicate(timeout=50)
        except BaseException:
            process.terminate()  # it ends its workers
            raise
    print(output)
    assert process.returncode == 0, f"repeat with SHM_ASYNC_STRESS_SEED={seed}\n{output}"
