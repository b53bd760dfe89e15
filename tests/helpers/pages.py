"""The programs of documentation pages, and what they print."""

import contextlib
import io
import re
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


def said_to_print(code: str) -> list[str]:
    """What stands behind each print as a comment, in the order of the lines."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)


def run_page(page: Path) -> tuple[list[str], list[str]]:
    """What the blocks of a page print as one program, and what they say that they print."""
    examples = list(Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples())
    code = "".join(str(each.parsed) for each in examples)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in examples:
            example.evaluate()
    assert code.count("print(") == len(said_to_print(code))
    assert len(examples) == page.read_text().count("```python\n")
    return printed.getvalue().splitlines(), said_to_print(code)


def headings(page: Path) -> set[str]:
    """The anchors that code hosts, and MyST, give to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
