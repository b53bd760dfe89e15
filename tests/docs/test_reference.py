"""The reference names every error, message, environment variable and limit that the code has."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shm_async
from shm_async import errors
from shm_async._lock import cohort, labels, members, seat, statistics, table
from shm_async._memory import elements, names, posix
from shm_async._postgresql import group
from shm_async._postgresql.address import Terms
from shm_async._region import OPEN_TRIES
from shm_async._watch import lookout, snapshot

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not REFERENCE.exists(), reason="no docs in this tree"),
]

SOURCES = sorted(
    path
    for path in (ROOT / "shm_async").rglob("*.py")
    if path.parent.name not in ("_cli", "static")
)
TREES = [ast.parse(path.read_text()) for path in SOURCES]

#: What makes an exception of a class that the reference has.
MAKERS = {name: name for name in errors.__all__}
MAKERS |= {"not_found": "RegionNotFoundError", "DisconnectedError": "RegionServerError"}


def page(name: str) -> str:
    """The text of a page; nothing where there are no docs, as in a wheel's tests."""
    return (REFERENCE / name).read_text() if REFERENCE.exists() else ""


def section(title: str) -> str:
    """The text of a section of the errors."""
    return page("errors.md").split(f"\n## {title}\n")[1].split("\n## ")[0]


def template(node: ast.expr) -> str | None:
    """The text of a message, with … for what is put in; None: not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or "…" for part in node.values)
    return None


@functools.cache
def templates() -> frozenset[str]:
    return frozenset(_templates())


def _templates() -> Iterator[str]:
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and (text := template(node)):
                yield text


def made() -> Iterator[tuple[str, str]]:
    """Each message that is written where its exception is made."""
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                texts = filter(None, map(template, node.args))
                if node.func.id in MAKERS and (text := max(texts, key=len, default="")):
                    yield MAKERS[node.func.id], text


def is_part(message: str, text: str) -> bool:
    return bool(re.search(".*".join(map(re.escape, message.split("…"))), text, re.DOTALL))


def messages_of(text: str) -> list[str]:
    """What stands in backticks in the columns of messages."""
    found = []
    for row in re.findall(r"^\| .*", text, re.M):
        cells = row.split(" | ")
        first = cells[1] if re.fullmatch(r"\| (`E[A-Z]+`(, )?)+", cells[0]) else cells[0]
        found += re.findall(r"`([^`]+)`", first)
    return found


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", errors.__all__)
def test_each_error_has_a_section_that_tells_which_of_pythons_it_is(name: str):
    nearest = getattr(shm_async, name).__bases__[-1].__name__
    assert name == "ShmError" or f"`{nearest}`" in section(name).strip().split(".")[0]


@pytest.mark.parametrize(("name", "text"), sorted(set(made())))
def test_each_message_of_an_error_is_in_its_section(name: str, text: str):
    quoted = re.findall(r"`([^`]+)`", section(name))
    assert any(is_part(message, text) for message in quoted if len(message) > 8)


def test_some_messages_were_found():
    assert len(set(made())) > 40
    assert {name for name, _ in made()} >= set(errors.__all__) - {"ShmError", "WouldBlockError"}


@pytest.mark.parametrize("message", messages_of(page("errors.md")))
def test_each_message_of_the_page_is_one_of_the_code(message: str):
    assert any(is_part(message, text) for text in templates())


# ---- environment variables -----------------------------------------------------------------


def variables() -> Iterator[str]:
    """What the package and its build read from the environment."""
    builds = [ROOT / "setup.py", ROOT / "build_ffi.py", ROOT / "build_backend.py"]
    texts = [path.read_text() for path in [*(ROOT / "shm_async").rglob("*.py"), *builds]]
    for text in texts:
        yield from re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", text)
        yield from re.findall(r"getenv\(\"(\w+)\"", text)
        yield from re.findall(r"\"(\w+)\" (?:not )?in os\.environ", text)
        yield from re.findall(r"\bSHM_ASYNC_[A-Z]+\b", text)
        assert len(re.findall(r"environ\.get\(|environ\[|getenv", text)) <= len(
            re.findall(r"(?:environ\.get\(|environ\[|getenv\()(?:\"\w+\"|VARIABLE)", text)
        )


def test_each_environment_variable_is_on_the_page():
    rows = re.findall(r"^\| (`.*?) \|", page("environment.md"), re.M)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(variables()) == told
    assert "SHM_ASYNC_SIGNAL" in told


# ---- limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("name", f"{names.NAME_MAX} bytes"),
        ("name", names.COMPANION),
        ("name", names.SUCCESSOR),
        ("System V key", f"{names.KEY_MAX:,}"),
        ("dimensions", f"1 to {elements.MAX_NDIM}"),
        ("attempts of `Region.open`", f"{OPEN_TRIES}, then"),
        ("wait for a creator", f"{posix.CREATION_PATIENCE:g} second"),
        ("calls of a repair function", f"{table.MAX_REPAIRS}, then"),
        ("hand-overs", f"{cohort.MAX_PASSES}, or {members.MAX_KEEP * 1000:g} ms"),
        ("hand-overs", f"writer {cohort.MAX_KEEP_ALONE * 1000:g} ms"),
        ("readers that join", f"{members.MAX_SHARE * 1000:g} ms"),
        ("a blocked `with`", f"{seat.TICK / 1e6:g} ms"),
        ("label", f"{labels.MAX_LENGTH} printable"),
        ("label", f"{statistics.MAX_LABELS} of them"),
        ("attempts of `snapshot`", f"{snapshot.TRIES} |"),
        ("looks of a watcher", f"{1 / lookout.LOOK_AGAIN:g} a second"),
        ("descriptors of a region", f"up to {seat.POOL_SIZE} unused"),
        ("bytes of data", f"{Terms().max_bytes >> 20} MiB"),
        ("stores that are", f"{group.MAX_KEEP * 1000:g} ms"),
        ("a lost lock", f"{Terms().check_interval:g} s"),
    ],
)
def test_a_limit_is_that_of_the_code(row: str, said: str):
    rows = re.findall(rf"^\| {re.escape(row)}.*", page("limits.md"), re.M)
    assert any(said in each for each in rows), rows


@pytest.mark.parametrize(
    ("row", "said", "file", "line"),
    [
        ("retries of a busy", "50 µs", "spin.c", "LONGEST_NS = 50000,"),
        ("a sleeper", "40 ms", "internal.h", "SHMA_GATE_CHANCE_NS = 40000000 "),
        ("pause between", "5 ms", "internal.h", "SHMA_POLL_LAST_NS = 5000000 "),
        ("threads", "0.1 s", "waiter_thread.c", "LINGER_MS = 100,"),
        ("threads", "256 KiB", "waiter_thread.c", "STACK_BYTES = 256 * 1024 "),
    ],
)
def test_a_limit_is_that_of_the_c(row: str, said: str, file: str, line: str):
    assert line in (ROOT / "shm_async" / "_shim" / file).read_text()
    test_a_limit_is_that_of_the_code(row, said)


# ---- the rest ------------------------------------------------------------------------------


def test_the_page_about_compatibility_has_each_python_and_each_system_of_ci():
    text = page("compatibility.md")
    config = (ROOT / "pyproject.toml").read_text()
    for version in re.findall(r'"Programming Language :: Python :: (3\.\d+)"', config):
        assert re.search(rf"^\| CPython .*\b{re.escape(version)}\b", text, re.M), version
    assert "bookworm testing" in (ROOT / ".ci" / "run").read_text()
    assert "Debian 12 and Debian testing" in text


def words_of(text: str) -> list[str]:
    return re.findall(r"^\| ([\w-].*?) \|", text, re.M)[1:]


def test_a_word_is_explained_in_the_glossary_or_in_the_architecture():
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    ours = words_of(architecture.split("\n## The words\n")[1].split("\n## ")[0])
    assert len(ours) > 10
    assert set(ours) & set(words_of(page("glossary.md"))) == set()


def test_the_glossary_is_in_order_and_has_each_word_once():
    words = words_of(page("glossary.md"))
    assert words == sorted(set(words), key=str.lower)
    assert len(words) > 30
