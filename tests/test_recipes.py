"""Each recipe of docs/recipes.md runs as a program of its own and prints what it says."""

import ast
import contextlib
import importlib.util
import io
import re
from pathlib import Path

import pytest
from peers import missing
from sybil import Sybil
from sybil.example import Example
from sybil.parsers.markdown import PythonCodeBlockParser

RECIPES = Path(__file__).parent.parent / "docs" / "recipes.md"
TEXT = RECIPES.read_text()
TITLES = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)


def examples_of(title: str) -> list[Example]:
    """The code blocks below that heading, in a namespace of their own."""
    start = TEXT.index(f"\n## {title}\n")
    end = TEXT.find("\n## ", start + 1) % len(TEXT)
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(RECIPES)
    return [each for each in document.examples() if start < each.region.start < end]


def packages_of(code: str) -> set[str]:
    imports = [each for each in ast.walk(ast.parse(code)) if isinstance(each, ast.Import)]
    return {alias.name for each in imports for alias in each.names}


def said_to_print(code: str) -> list[str]:
    """What stands behind each print as a comment, in the order of the lines."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)


def remove_regions_of(code: str) -> None:
    """Remove what a recipe left that failed half-way."""
    for region in re.findall(r"\"(recipe-\w+)\"", code):
        Path(f"/dev/shm/{region}").unlink(missing_ok=True)


@pytest.mark.parametrize("title", TITLES)
def test_a_recipe_does_what_it_says(title: str, request: pytest.FixtureRequest):
    examples = examples_of(title)
    code = "".join(str(each.parsed) for each in examples)
    request.addfinalizer(lambda: remove_regions_of(code))
    for package in sorted(packages_of(code)):
        if importlib.util.find_spec(package) is None:
            missing(f"NO {package.upper()} HERE: the recipe {title!r} was not tried")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in examples:
            example.evaluate()
    assert printed.getvalue().splitlines() == said_to_print(code) != []
    assert code.count("print(") == len(said_to_print(code))


def test_every_code_block_belongs_to_a_recipe():
    blocks = sum(len(examples_of(title)) for title in TITLES)
    assert blocks == TEXT.count("```python\n") == len(TITLES) >= 10
