"""The README: its code blocks run, in order, as one program, and its tables are complete."""

import contextlib
import io
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from shm_async import elements

README = Path(__file__).parent.parent / "README.md"


def test_the_readmes_code_does_what_it_says():
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(README)
    printed = io.StringIO()
    blocks = 0
    with contextlib.redirect_stdout(printed):
        for example in document.examples():
            example.evaluate()
            blocks += 1
    assert blocks == README.read_text().count("```python\n") >= 3
    assert printed.getvalue().splitlines() == [
        "counted 1",
        "region 'readme-counters' has 4 elements of uint64, not 5: "
        "ask for fewer, or unlink it and create it again",
        "too late",
        "in time",
        "1 left",
        "region 'readme-pair' may be half-written",
        "1 1",
        "True",
        "100 -100",
        "generation 2 total 3",
        "[]",
        "[]",
        "['readme-left']",
        "[0, 0, 0, 9]",
        "5 in both",
        "1 0 0.0",
        "True write False",
        "()",
        "(2, 3) [[0, 2, 0], [0, 0, 255]]",
        "7 1",
    ]


def test_the_readme_names_every_element_type_and_each_of_its_names():
    text = README.read_text()
    codes = [code for code in elements.CODES.values() if f"`{code}`" not in text]
    names = [name for name in (*elements.CODES, *elements.JAVASCRIPT) if f"`{name}`" not in text]
    assert (codes, names) == ([], [])
