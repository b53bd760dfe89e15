"""The site: its first page, and the links of all pages, also where a code host shows them."""

import re
from pathlib import Path

import pytest
from pages import headings, run_page

import shm_async

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "examples" / "README.md"])

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not DOCS.exists(), reason="no docs in this tree"),
]


def test_the_program_of_the_first_page_runs():
    printed, said = run_page(DOCS / "index.md")
    assert printed == said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_to_a_file_and_a_heading(page: Path):
    for target, _, anchor in re.findall(r"\]\(([\w./-]*)(#([\w-]+))?\)", page.read_text()):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in headings(there), f"{target}#{anchor}"


def test_each_page_has_a_place_in_the_contents():
    entries = re.findall(r"^[\w/-]+$", (DOCS / "index.md").read_text(), re.M)
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")}
    assert set(entries) == pages - {"index", "inventories/README"}


def test_the_citation_names_the_version():
    assert f"\nversion: {shm_async.__version__}\n" in (ROOT / "CITATION.cff").read_text()
