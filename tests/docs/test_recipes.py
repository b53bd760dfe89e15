"""Each section of these pages runs as a program of its own and prints what it says."""

import ast
import contextlib
import importlib.util
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pages import said_to_print
from peers import missing
from sybil import Sybil
from sybil.example import Example
from sybil.parsers.markdown import PythonCodeBlockParser

DOCS = Path(__file__).parents[2] / "docs"

#: Page -> how many sections it has at least.
PAGES = {"recipes.md": 10, "faq.md": 19, "tutorial.md": 6, "frameworks.md": 5, "moving.md": 5}

#: Pages whose sections are run as files: they start processes, or use frameworks, which keep
#: one state for each process.
PROGRAMS = ("frameworks.md", "moving.md", "tutorial.md")


def titles_of(page: str) -> list[str]:
    return re.findall(r"^## (.*)$", (DOCS / page).read_text(), re.MULTILINE)


def examples_of(page: str, title: str) -> list[Example]:
    """The code blocks below that heading, in a namespace of their own."""
    text = (DOCS / page).read_text()
    start = text.index(f"\n## {title}\n")
    end = text.find("\n## ", start + 1) % len(text)
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(DOCS / page)
    return [each for each in document.examples() if start < each.region.start < end]


def packages_of(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    plain = [alias.name for each in nodes if isinstance(each, ast.Import) for alias in each.names]
    named = [each.module or "" for each in nodes if isinstance(each, ast.ImportFrom)]
    return {name.partition(".")[0] for name in plain + named}


def remove_regions_of(code: str) -> None:
    """Remove what a recipe left that failed half-way."""
    for region in re.findall(r"\"((?:recipe|faq)-[\w-]+)\"", code):
        Path(f"/dev/shm/{region}").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("page", "title"), [(page, title) for page in PAGES for title in titles_of(page)]
)
def test_a_recipe_does_what_it_says(page: str, title: str, request: pytest.FixtureRequest):
    examples = examples_of(page, title)
    code = "".join(str(each.parsed) for each in examples)
    request.addfinalizer(lambda: remove_regions_of(code))
    for package in sorted(packages_of(code)):
        if importlib.util.find_spec(package) is None:
            missing(f"NO {package.upper()} HERE: the recipe {title!r} was not tried")
    printed = run_program(code) if page in PROGRAMS else run_here(examples)
    assert printed == said_to_print(code) != []
    assert code.count("print(") == len(said_to_print(code))


def run_here(examples: list[Example]) -> list[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in examples:
            example.evaluate()
    return printed.getvalue().splitlines()


def run_program(code: str) -> list[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_every_code_block_belongs_to_a_recipe(page: str, least: int):
    titles = titles_of(page)
    blocks = sum(len(examples_of(page, title)) for title in titles)
    assert blocks == (DOCS / page).read_text().count("```python\n") == len(titles) >= least
