"""Programs that tests start in an interpreter of their own."""

import os
from pathlib import Path


def path_of_tests() -> str:
    """A PYTHONPATH for programs that import the helpers."""
    helpers = Path(__file__).parent
    paths = [str(helpers), str(helpers.parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))
