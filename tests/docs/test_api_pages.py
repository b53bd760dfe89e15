"""The pages of the API show each public name once."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from public import PUBLIC_MODULES

API = Path(__file__).parents[2] / "docs" / "reference" / "api"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not API.exists(), reason="no docs in this tree"),
]

DIRECTIVE = re.compile(r"^\.\. (automodule|currentmodule|auto\w+):: ([\w.]+)", re.M)


def shown() -> Iterator[tuple[str, Any]]:
    """Each name that a page shows, with the object behind it."""
    for page in sorted(API.glob("*.md")):
        module = ""
        for kind, name in DIRECTIVE.findall(page.read_text()):
            if kind in ("automodule", "currentmodule"):
                module = name
            else:
                yield f"{module}.{name}", getattr(importlib.import_module(module), name)


def test_each_public_name_is_on_a_page_and_none_is_there_twice():
    names = [name for name, _ in shown()]
    assert len(set(names)) == len(names)
    public = {
        f"{module}.{name}"
        for module in PUBLIC_MODULES
        for name in importlib.import_module(module).__all__
        if module != "shm_async.errors"  # the same objects as in shm_async
    }
    assert public - set(names) == set()
    assert set(names) - public == {"shm_async.shm_typed_array.SharedArray"}


def test_each_class_is_shown_with_its_members():
    text = "".join(page.read_text() for page in API.glob("*.md"))
    blocks = re.findall(r"^\.\. autoclass:: (\S+)\n((?:   :.*\n)*)", text, re.M)
    assert [name for name, options in blocks if ":members:" not in options] == []
    assert len(blocks) > 10


@pytest.mark.parametrize("page", sorted(API.glob("[!i]*.md")), ids=lambda page: page.stem)
def test_each_page_is_in_the_index(page: Path):
    assert f"({page.name})" in (API / "index.md").read_text()
