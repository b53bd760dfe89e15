"""Docstrings come out right on the pages of the API: Google's sections, as napoleon reads them."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from public import PUBLIC_MODULES

import shm_async

ENTRY = {
    "Args": r"\w+: \S.*",
    "Attributes": r"\w+: \S.*",
    "Raises": r"[A-Z]\w+(\.\w+)?(, [A-Z]\w+)*(: \S.*)?",
}

pytestmark = pytest.mark.once


def documented() -> Iterator[tuple[str, Any]]:
    """Every public object that has a docstring of ours, once."""
    seen = set()
    for module in map(importlib.import_module, PUBLIC_MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            found = [(name, value)] if inspect.isroutine(value) or inspect.isclass(value) else []
            if inspect.isclass(value):
                members = ((each, inspect.getattr_static(value, each)) for each in dir(value))
                found += [(f"{name}.{key}", each) for key, each in members if key[0] != "_"]
            for title, each in found:
                doc = getattr(each, "__doc__", None)
                ours = isinstance(each, property) or inspect.isclass(each)
                each = getattr(each, "__func__", each)
                ours = ours or inspect.isfunction(each)
                home = getattr(getattr(each, "fget", each), "__module__", "")
                if doc and ours and home.startswith("shm_async") and title not in seen:
                    seen.add(title)
                    yield title, each


each = pytest.mark.parametrize(
    "value", [pytest.param(value, id=title) for title, value in documented()]
)


def entries(doc: str, section: str) -> list[str]:
    """The entries of a section, each as one line."""
    found = re.search(rf"^{section}:\n((?:(?: +.*)?\n?)*)", doc, re.M)
    lines = found[1].splitlines() if found else []
    whole: list[str] = []
    for line in filter(None, lines):
        if line[4] != " ":
            whole.append(line.strip())
        else:
            whole[-1] += " " + line.strip()
    return whole


@each
def test_the_entries_of_a_section_can_be_told_apart(value: Any):
    doc = inspect.getdoc(value) or ""
    wrong = [
        entry
        for section in ENTRY
        for entry in entries(doc, section)
        if not re.fullmatch(ENTRY[section], entry)
        or (section == "Raises" and re.search(r"\. [A-Z]\w+(Error|Warning)\b[:,]", entry))
    ]
    assert wrong == []


@each
def test_a_property_does_not_begin_with_what_would_be_a_type(value: Any):
    if isinstance(value, property):
        assert ": " not in (inspect.getdoc(value) or "").splitlines()[0]


@each
def test_no_asterisk_would_be_emphasis(value: Any):
    doc = re.sub(r"``.*?``", "", inspect.getdoc(value) or "", flags=re.DOTALL)
    assert "*" not in doc


def test_there_are_many():
    assert len(list(documented())) > 100


# ---- references ----------------------------------------------------------------------------


def referred_to(doc: str) -> set[str]:
    """What stands in single backticks: a reference, where double ones are code."""
    doc = re.sub(r"``.*?``", "", doc, flags=re.DOTALL)
    return set(re.findall(r"(?<!`)`([^`]+)`", doc))


def can_be_seen(name: str, title: str, value: Any) -> bool:
    """Whether the name is a parameter, or leads somewhere from that place, as in Sphinx."""
    function = value if inspect.isfunction(value) else getattr(value, "__init__", None)
    if function is not None and name in inspect.signature(function).parameters:
        return True
    places = [shm_async, *map(importlib.import_module, PUBLIC_MODULES)]
    owners = [getattr(place, title.partition(".")[0], None) for place in places]
    return any(leads(place, name.split(".")) for place in [*owners, *places])


def leads(place: Any, path: list[str]) -> bool:
    known = {*dir(place), *getattr(place, "__annotations__", {})} if place is not None else ()
    return path[0] in known and (len(path) == 1 or leads(getattr(place, path[0], None), path[1:]))


@pytest.mark.parametrize(
    ("title", "value"), [pytest.param(*found, id=found[0]) for found in documented()]
)
def test_what_a_docstring_refers_to_can_be_seen_from_there(title: str, value: Any):
    names = referred_to(inspect.getdoc(value) or "")
    assert sorted(name for name in names if not can_be_seen(name, title, value)) == []


# ---- the comments beside fields --------------------------------------------------------------


def fields_of(kind: type) -> dict[str, str]:
    """The fields of a dataclass, each with the comment that documents it."""
    home = importlib.import_module(f"shm_async.{shm_async._HOMES[kind.__name__]}")
    source = inspect.getsource(home).split(f"\nclass {kind.__name__}:\n")[1]
    lines = source.split("\n\n\n")[0].splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if begins := re.match(r"    (\w+): ", line):
            name = begins[1]
            found[name] = ""
        if name and (comment := re.search(r"#: (.*)$", line)):
            found[name] += comment[1] + " "
        elif not re.match(r"    \w+: ", line):
            name = ""
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


@pytest.mark.parametrize(
    "kind", [kind for _, kind in documented() if dataclasses.is_dataclass(kind)]
)
def test_each_field_has_a_comment_that_does_not_begin_with_what_would_be_a_type(kind: type):
    wrong = [name for name, text in fields_of(kind).items() if not text or ": " in text]
    assert wrong == []
    assert fields_of(kind)
