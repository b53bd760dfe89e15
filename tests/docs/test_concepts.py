"""The pages of docs/concepts and docs/reference: their programs and titles."""

import re
from pathlib import Path

import pytest
from pages import run_page

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([*DOCS.glob("concepts/*.md"), *DOCS.glob("reference/**/*.md")])

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not DOCS.exists(), reason="no docs in this tree"),
]

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.stem}-{page.stem}"
)


@each_page
def test_its_programs_print_what_it_says(page: Path):
    printed, said = run_page(page)
    assert printed == said


@each_page
def test_it_has_one_title_and_is_in_the_index_of_its_folder(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    assert len(re.findall(r"^# ", text, re.M)) == 1
    if page.stem != "index":
        assert f"({page.name})" in (page.parent / "index.md").read_text()
