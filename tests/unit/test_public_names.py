"""What users can name, and what its documentation tells them."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from public import PUBLIC_MODULES

import shm_async

pytestmark = pytest.mark.once

#: What a docstring has to say, and the words that say it.
ERRORS = re.compile(r"Raises|[Ee]rrors\s+are\s+those|raises\s+nothing|or\s+an\s+exception")
WAITING = re.compile(r"\b([Bb]locks?|[Ww]aits?|waiting|at once)\b")
CANCELLING = re.compile(r"[Cc]ancel")
FORKING = re.compile(r"\b[Ff]ork")
UNITS = re.compile(
    r"\bseconds|\bbytes|\belements|\bbits|\bkey\b|\bid\b|\bids\b|\bgeneration\b|\bsignal", re.I
)

Callables = Iterator[tuple[str, Any]]


def public_classes() -> Iterator[tuple[str, type]]:
    for module in map(importlib.import_module, PUBLIC_MODULES):
        for name in module.__all__:
            if inspect.isclass(value := getattr(module, name)):
                yield f"{module.__name__}.{name}", value


def is_error(kind: type) -> bool:
    return issubclass(kind, BaseException)


def public_callables() -> Callables:
    """Functions, and what a public class has of ours: an exception's methods are Python's."""
    for module in map(importlib.import_module, PUBLIC_MODULES):
        for name in module.__all__:
            if inspect.isfunction(value := getattr(module, name)):
                yield f"{module.__name__}.{name}", value
    for title, kind in public_classes():
        for name in dir(kind):
            method = inspect.getattr_static(kind, name)
            method = getattr(method, "__func__", method)
            if not name.startswith("_") and inspect.isfunction(method) and not is_error(kind):
                yield f"{title}.{name}", method


def each(found: Callables) -> Any:
    return pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in found])


def numbers_taken(function: Any) -> Iterator[str]:
    """The parameters that are, or may be, a number that has a unit."""
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = {parameter.annotation, *get_args(parameter.annotation)}
        if kinds & {int, float} and bool not in kinds:
            yield name


# ---- names ---------------------------------------------------------------------------


def test_the_public_names_are_these():
    assert set(shm_async.__all__) == {
        "Changes", "Hold", "Holder", "LockLostError", "LockTimeoutError", "OwnerDiedError",
        "Process", "Region", "RegionClosedError", "RegionExistsError", "RegionFormatError",
        "RegionInfo", "RegionNotFoundError", "RegionReplacedError", "RegionServerError",
        "RegionSizeError", "SharedHold", "SharedRegion", "ShmError", "Statistics", "Transaction",
        "WouldBlockError", "inspect", "open_region", "prune",
    }  # fmt: skip
    assert all(hasattr(shm_async, each) for each in shm_async.__all__)


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_has_each_public_name_once_and_in_order(name: str):
    names = importlib.import_module(name).__all__
    assert len(set(names)) == len(names)
    assert list(names) == sorted(
        names, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )


def test_no_other_module_looks_public():
    folder = Path(shm_async.__file__).parent
    files = [
        *folder.glob("[!_]*.py"),
        *folder.glob("contrib/[!_]*.py"),
        folder / "contrib" / "dashboard.py",  # a folder
    ]
    found = {".".join(path.with_suffix("").relative_to(folder.parent).parts) for path in files}
    assert found == {*PUBLIC_MODULES[1:], "shm_async.cli"}


@pytest.mark.parametrize("name", shm_async.__all__)
def test_a_public_name_shows_no_private_module(name: str):
    assert getattr(shm_async, name).__module__ == "shm_async"


def test_all_errors_are_among_the_names_of_the_package():
    errors = importlib.import_module("shm_async.errors")
    assert set(errors.__all__) <= set(shm_async.__all__)
    defined = [
        node.name
        for node in ast.parse(inspect.getsource(errors)).body
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted(defined) == errors.__all__


def test_what_methods_return_can_be_imported():
    region = shm_async.Region
    for method, kind in [(region.transaction, "Transaction"), (region.changes, "Changes")]:
        assert method.__annotations__["return"] is getattr(shm_async, kind)


# ---- what their documentation tells --------------------------------------------------


@each(public_callables())
def test_documentation_tells_the_errors(value: Any):
    assert ERRORS.search(inspect.getdoc(value) or "")


@each(public_callables())
def test_documentation_tells_whether_it_blocks(value: Any):
    assert WAITING.search(inspect.getdoc(value) or "")


@each((name, value) for name, value in public_callables() if inspect.iscoroutinefunction(value))
def test_documentation_of_a_coroutine_tells_whether_it_can_be_cancelled(value: Any):
    assert CANCELLING.search(inspect.getdoc(value) or "")


@each(
    (name, kind) for name, kind in public_classes() if not is_error(kind) and not is_dataclass(kind)
)
def test_documentation_of_a_class_tells_what_a_fork_does(value: type):
    assert FORKING.search(inspect.getdoc(value) or "")


@each(public_callables())
def test_documentation_tells_the_unit_of_each_number(value: Any):
    doc = inspect.getdoc(value) or ""
    if re.search(r"[Aa]rguments\s+and\s+errors\s+are\s+those", doc):
        return
    for name in numbers_taken(value):
        told = re.search(rf"^ +{name}: ((?:.*\n?)(?:^ {{8}} *.*\n?)*)", doc, re.M)
        assert told, f"{name} is not documented"
        assert UNITS.search(told[1]), f"{name} has no unit"


@each(public_classes())
def test_each_public_class_and_property_is_documented(value: type):
    assert value.__doc__
    for name in dir(value):
        found = inspect.getattr_static(value, name)
        if not name.startswith("_") and isinstance(found, property):
            assert found.__doc__, name
