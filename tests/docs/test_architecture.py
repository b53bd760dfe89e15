"""The pages for developers name what is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from shm_async._shim_ffi import ffi

from shm_async._native import CONTROL_SIZE

ROOT = Path(__file__).parents[2]
PAGES = ["architecture.md", "lock-protocol.md", "control-page.md"]

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not (ROOT / "docs").exists(), reason="no docs in this tree"),
]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def tree() -> set[str]:
    """The files of the package that the tree lists, with their folder."""
    listed = page("architecture.md").split("```text\nshm_async/\n")[1].split("\ntests/")[0]
    found, folder = set(), ""
    for line in listed.splitlines():
        if opens := re.match(r"  ((?:\w+/)+) ", line):
            folder = opens[1]
        elif not line.startswith("    "):
            folder = ""
        names = re.match(r" *((?:\w+\.py +)*)", line)
        found |= {folder + name for name in names[1].split()}
    return found


def test_the_tree_lists_every_module():
    package = ROOT / "shm_async"
    there = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.parent.name != "_cli" and (path.name != "__init__.py" or path.parent == package)
    }
    assert tree() == there


def test_the_tree_lists_every_file_of_the_c():
    listed = page("architecture.md").split("  _shim/ ")[1].split("\ntests/")[0]
    there = {path.name for path in (ROOT / "shm_async/_shim").glob("*.[ch]")}
    assert set(re.findall(r"\w+\.[ch]\b", listed)) == there


def test_the_arrows_are_those_that_lint_checks():
    config = (ROOT / "pyproject.toml").read_text().split("\nlayers = [\n")[1].split("\n]")[0]
    checked = [set(line.split(" | ")) for line in re.findall(r'"(.+)",', config)]
    drawn = page("architecture.md").split("## The arrows")[1].split("```")[1].removeprefix("text\n")
    lines = [line for line in drawn.splitlines() if line.strip() != "|"]
    assert [set(layer.split(", ")) for line in lines for layer in line.split(" -> ")] == checked


@pytest.mark.parametrize("name", PAGES)
def test_no_diagram_has_a_sign_at_which_mermaid_ends_a_text(name: str):
    diagrams = re.findall(r"```mermaid\n(.+?)```", page(name), re.S)
    assert [line for each in diagrams for line in each.splitlines() if set(line) & set(";#")] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_a_page_names_is_there(name: str):
    paths = re.findall(r"`([\w./]+(?:\.py|\.c|\.h|\.md|/))`", page(name))
    missing = [
        path
        for path in paths
        if not (ROOT / path).exists() and not (ROOT / "shm_async" / path).exists()
    ]
    assert paths
    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_page_and_a_heading(name: str):
    for target, _, heading in re.findall(r"\]\(([\w-]+\.md)(#([\w-]+))?\)", page(name)):
        headings = re.findall(r"^#+ (.+)$", page(target), re.M)
        assert not heading or heading in {each.lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_function_of_the_c_that_a_page_names_is_there(name: str):
    shim = "".join(path.read_text() for path in sorted((ROOT / "shm_async/_shim").glob("*.[ch]")))
    named = set(re.findall(r"`(shma_\w+?)`", page(name)))
    named |= set(re.findall(r"`(\w+)` (?:in|of) (?:the C|the registry|`_shim)", page(name)))
    assert [each for each in sorted(named) if not re.search(rf"\b{each}\b", shim)] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_method_that_a_page_names_is_there(name: str):
    for kind, method in re.findall(r"`([A-Z]\w+)\.(_?[a-z]\w+)`", page(name)):
        classes = classes_named(kind)
        assert classes, kind
        assert [each for each in classes if not hasattr(each, method)] == [], f"{kind}.{method}"


def classes_named(kind: str) -> list[type]:
    """The classes of the package with that name, but for those that need an extra."""
    found = []
    for path in sorted((ROOT / "shm_async").rglob("*.py")):
        inside = path.relative_to(ROOT).with_suffix("").parts
        needs_extra = "_postgresql" in inside or "contrib" in inside
        if not needs_extra and re.search(rf"^class {kind}\b", path.read_text(), re.M):
            found.append(getattr(import_module(".".join(inside)), kind))
    return found


def test_the_control_page_is_as_its_page_says():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (\d+) \|", page("control-page.md"), re.M)
    told = [(name, int(offset), int(size)) for offset, name, size in rows]
    fields = ffi.typeof("shma_control").fields
    there = [(name, field.offset, ffi.sizeof(field.type)) for name, field in fields]
    assert told == there
    assert told[-1][1] + told[-1][2] == CONTROL_SIZE


def test_the_locked_bytes_are_where_the_page_says():
    text = page("control-page.md")
    from shm_async import _native

    assert _native.GATE_BYTE == 2**62
    assert "| 2^62 | the gate" in text
    assert _native.PRESENCE_BYTE == 2**62 + 1
    assert "| 2^62 + 1 | presence" in text
    assert _native.CREATION_BYTE == 2**62 + 64
    assert "| 2^62 + 64 |" in text
