"""The README and the guide: the code blocks of each run as one program; tables are complete."""

import contextlib
import io
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from shm_async._memory import elements

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide.md"


def printed_by(page: Path) -> list[str]:
    """What the programs of a page print; that there are some is checked, too."""
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    printed = io.StringIO()
    blocks = 0
    with contextlib.redirect_stdout(printed):
        for example in document.examples():
            example.evaluate()
            blocks += 1
    assert blocks == page.read_text().count("```python\n") >= 2
    return printed.getvalue().splitlines()


def test_the_readmes_code_does_what_it_says():
    assert printed_by(ROOT / "README.md") == [
        "counted 1",
        "region 'readme-counters' has 4 elements of uint64, not 5: "
        "attach() without a length takes all that it has, and resize() makes it larger",
    ]


def test_the_guides_code_does_what_it_says():
    assert printed_by(GUIDE) == [
        "too late",
        "in time",
        "1 left",
        "region 'guide-pair' may be half-written",
        "1 1",
        "True",
        "100 -100",
        "generation 2 total 3",
        "[]",
        "[]",
        "['guide-left']",
        "[0, 0, 0, 9]",
        "5 in both",
        "1 0 0.0",
        "True write False",
        "()",
        "(2, 3) [[0, 2, 0], [0, 0, 255]]",
        "7 1",
    ]


def test_the_guide_names_every_element_type_and_each_of_its_names():
    text = GUIDE.read_text()
    codes = [code for code in elements.CODES.values() if f"`{code}`" not in text]
    names = [name for name in (*elements.CODES, *elements.JAVASCRIPT) if f"`{name}`" not in text]
    assert (codes, names) == ([], [])
