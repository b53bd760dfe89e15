"""The tool that keeps the house finds what it is there to find."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not (ROOT / "tools/house.py").exists(), reason="no tools in this tree"),
]


@pytest.fixture
def house():
    spec = importlib.util.spec_from_file_location("house", ROOT / "tools/house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.LONG_FILES = module.LONG_FUNCTIONS = frozenset()
    return module


@pytest.fixture
def tree(tmp_path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path

    return write


def test_a_tidy_tree_has_no_faults(house, tree):
    assert list(house.check(tree("shm_async/a.py", "x = 1\n" * 400))) == []


@pytest.mark.parametrize(("name", "lines"), [("a.py", 401), ("_shim/a.c", 351), ("a.h", 351)])
def test_a_file_that_is_too_long_is_a_fault(house, tree, name: str, lines: int):
    (fault,) = house.check(tree(f"shm_async/{name}", "#\n" * lines))
    assert fault.startswith(f"shm_async/{name}: {lines} lines")


def test_the_docstring_and_the_head_of_a_function_do_not_count(house, tree):
    doc = '    """Do it.\n' + "\n" * 50 + '    """\n'
    head = "def f(\n" + "".join(f"    a{i},\n" for i in range(30)) + "):\n"
    fits = tree("tests/a.py", head + doc + "    x = 1\n" * 40)
    assert list(house.check(fits)) == []
    (fault,) = house.check(tree("tests/a.py", head + doc + "    x = 1\n" * 41))
    assert "f has 41 lines" in fault


def test_two_files_of_tests_with_one_name_are_a_fault(house, tree):
    tree("tests/docs/test_a.py", "x = 1\n")
    assert list(house.check(tree("tests/docs/test_b.py", "x = 1\n"))) == []
    (fault,) = house.check(tree("tests/examples/test_a.py", "x = 1\n"))
    assert fault == "tests/examples/test_a.py: tests/docs/test_a.py has this name, too: rename one"


def test_an_exception_that_nothing_needs_is_a_fault(house, tree):
    root = tree("tests/a.py", "x = 1\n" * 401)
    house.LONG_FILES = frozenset({"tests/a.py"})
    assert list(house.check(root)) == []
    (fault,) = house.check(tree("tests/a.py", "x = 1\n"))
    assert "needs 'tests/a.py' no more" in fault


@pytest.mark.parametrize(
    "excuse", ["noqa", "noqa: F401", "type: ignore", "type: ignore[misc]", "noqa: F401 why"]
)
def test_an_excuse_without_a_reason_is_a_fault(house, tree, excuse: str):
    (fault,) = house.check(tree("tools/a.py", f"import os  # {excuse}\n"))
    assert fault.startswith("tools/a.py:1: no reason")


@pytest.mark.parametrize(
    "excuse", ["noqa: F401  # why", "noqa: F401, B018  # why", "type: ignore[misc,index]  # why"]
)
def test_an_excuse_with_a_reason_is_none(house, tree, excuse: str):
    assert list(house.check(tree("tools/a.py", f"import os  # {excuse}\n"))) == []


def test_more_than_six_ignored_types_in_the_package_are_a_fault(house, tree):
    line = "x = y  # type: ignore[misc]  # why\n"
    tree("tests/a.py", line * 10)
    assert list(house.check(tree("shm_async/a.py", line * 6))) == []
    (fault,) = house.check(tree("shm_async/_lock/b.py", line))
    assert fault.startswith("shm_async has 7")
