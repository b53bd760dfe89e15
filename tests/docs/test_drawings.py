"""The pictures of docs/concepts: made by tools/drawings.py, readable, and on a page."""

import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "concepts" / "drawings"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not FOLDER.exists(), reason="no docs in this tree"),
]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    made = runpy.run_path(str(ROOT / "tools" / "drawings.py"))
    monkeypatch.delitem(sys.modules, "canvas")
    return made


def test_the_files_are_what_the_script_draws(tools):
    drawn = {f"{name}.svg": draw().svg() for name, draw in tools["DRAWINGS"].items()}
    there = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert there == drawn, "run `make drawings`"


def test_the_control_page_is_drawn_with_each_of_its_fields():
    text = (FOLDER / "control-page.svg").read_text()
    table = (ROOT / "docs" / "control-page.md").read_text()
    fields = re.findall(r"^\| \d+ \| `(\w+)` \|", table, re.M)
    assert [field for field in fields if f">{field}<" not in text] == ["pad1", "pad2"]


def test_each_picture_is_on_a_page_that_describes_it():
    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for path in FOLDER.iterdir():
        assert re.search(rf"!\[[^\]]{{40,}}\]\([^)]*drawings/{path.name}\)", pages), path.name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_is_well_formed_and_follows_the_scheme(path: Path):
    root = ElementTree.fromstring(path.read_text())
    assert root.find("{*}title").text
    assert "prefers-color-scheme:dark" in root.find("{*}style").text


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_ink_can_be_read_on_the_card_and_the_black_one_on_every_paper(tools, scheme: int):
    canvas = runpy.run_path(str(ROOT / "tools" / "canvas.py"))
    inks, papers = canvas["INKS"], canvas["PAPERS"]
    pairs = [(ink, "card") for ink in inks] + [("ink", paper) for paper in papers]
    pairs.append(("soft", "plain"))
    weak = [
        (ink, paper)
        for ink, paper in pairs
        if contrast(inks[ink][scheme], papers[paper][scheme]) < 4.5  # WCAG AA
    ]
    assert weak == []


@pytest.mark.parametrize(
    ("words", "where"),
    [("much too long for it", (0, 0, 50, 20)), ("out", (380, 0, 50, 20)), ("", (0, 90, 9, 20))],
)
def test_a_label_that_does_not_fit_is_an_error(words: str, where: tuple[float, ...]):
    canvas = runpy.run_path(str(ROOT / "tools" / "canvas.py"))
    with pytest.raises(ValueError, match="units|not in the picture"):
        canvas["Picture"]("title", 100).box(*where, words)
