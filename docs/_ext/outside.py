"""A Sphinx extension: pages of the project that stand outside docs/, such as the examples' README.

On a code host a page of docs/ links to the file itself. On the site the file's text stands in a
page of docs/ that is a mere link elsewhere, and links to the file lead to that page.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["setup"]

#: Page -> the file, from the root of the project, whose text it shows.
PAGES = {
    "contributing": "CONTRIBUTING.md",
    "examples": "examples/README.md",
    "reference/changelog": "CHANGELOG.md",
}

LINK = re.compile(r"(?<=\]\()[\w./-]+")


def setup(app: Sphinx) -> dict[str, bool]:
    """Read those files in place of the pages. Sphinx calls this."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the text that the page shows, with links that are right there, into `source`."""
    docs = Path(app.srcdir)
    page = (docs / docname).with_suffix(".md")
    origin = page
    if docname in PAGES:
        origin = docs.parent / PAGES[docname]
        app.env.note_dependency(str(origin))
        source[0] = origin.read_text()
    shown = {(docs.parent / file).resolve(): docs / f"{name}.md" for name, file in PAGES.items()}

    def link(match: re.Match[str]) -> str:
        target = (origin.parent / match[0]).resolve()
        there = shown.get(target, target)
        return os.path.relpath(there, page.parent) if target.is_file() else match[0]

    source[0] = LINK.sub(link, source[0])
