"""Each program of each page is run: here, or by that page's own test. An excerpt says so."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "examples" / "README.md"])

#: Page -> the test that runs its programs.
RUN_BY = {
    "README.md": "tests/docs/test_readme.py",
    "docs/command.md": "tests/unit/cli/test_cli_files.py",
    "docs/containers.md": "tests/interop/test_containers.py",
    "docs/faq.md": "tests/docs/test_recipes.py",
    "docs/frameworks.md": "tests/docs/test_recipes.py",
    "docs/guide.md": "tests/docs/test_readme.py",
    "docs/index.md": "tests/docs/test_site.py",
    "docs/moving.md": "tests/docs/test_recipes.py",
    "docs/recipes.md": "tests/docs/test_recipes.py",
    "docs/testing.md": "tests/unit/test_pytest_plugin.py",
    "docs/tutorial.md": "tests/docs/test_recipes.py",
}
#: Folders whose pages are all run by one test.
FOLDERS = {
    "docs/concepts": "tests/docs/test_concepts.py",
    "docs/reference": "tests/docs/test_concepts.py",
}

BEFORE = "import shm_async\nregion = shm_async.Region.temporary(4)\n"
#: Page -> what makes a whole program of its blocks: code before them, and code after them.
WHOLE = {
    "docs/observability.md": (BEFORE, "shm_async.Region.attach(TABLE).unlink()\n"),
    "docs/one-host.md": ("", "import asyncio\nasyncio.run(count())\nregion.unlink()\n"),
    "docs/porting.md": ("", ""),
}

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not DOCS.exists(), reason="no docs in this tree"),
]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


def is_excerpt(block: str) -> bool:
    return block.startswith("# excerpt: ")


def programs_of(page: Path) -> list[str]:
    return [block for block in blocks_of(page) if not is_excerpt(block)]


def test_each_page_with_programs_has_a_test_that_runs_them():
    pages = {str(page.relative_to(ROOT)) for page in PAGES if programs_of(page)}
    others = {page for page in pages if str(Path(page).parent) not in FOLDERS}
    assert others == {*RUN_BY, *WHOLE}


@pytest.mark.parametrize(("page", "test"), {**RUN_BY, **FOLDERS}.items())
def test_that_test_names_the_page(page: str, test: str):
    assert Path(page).name in (ROOT / test).read_text()


def test_excerpts_are_few_and_right_python():
    excerpts = [block for page in PAGES for block in blocks_of(page) if is_excerpt(block)]
    for block in excerpts:
        compile(block, "excerpt", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert len(excerpts) <= 4


@pytest.mark.parametrize("page", WHOLE)
def test_the_programs_of_a_page_run(page: str):
    table = f"test-programs-{os.getpid()}"
    before, after = WHOLE[page]
    program = "\n".join([f"TABLE = {table!r}", before, *programs_of(ROOT / page), after])
    done = subprocess.run(
        [sys.executable, "-c", program.replace('"myservice.metrics"', "TABLE")],
        capture_output=True,
        env={**os.environ, "COUNTERS": table},
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
