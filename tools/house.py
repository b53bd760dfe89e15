"""Check the rules of the house that no other tool knows. Run by `make lint`.

* A Python file has at most 400 lines, a C file 350.
* A function has at most 40 lines of code, its docstring and its head not counted.
* The package has at most 6 ``type: ignore``.
* No two files of tests have the same name: pytest imports them by it, and would collect none.
* Each ``type: ignore`` and each ``noqa``, but in tests, names its rule and gives its reason.

The exceptions of today stand below. The list may only get shorter: an exception that is not
needed any more is a fault, too.
"""

import ast
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from tokenize import COMMENT, generate_tokens

ROOT = Path(__file__).parent.parent
SOURCES = ("*.py", "shm_async", "tests", "benchmarks", "examples", "tools")

LONGEST_FILE = {".py": 400, ".c": 350, ".h": 350}
LONGEST_FUNCTION = 40
MOST_TYPE_IGNORES = 6

#: Files that are longer today.
LONG_FILES: frozenset[str] = frozenset({})

#: "file: function" that are longer today.
LONG_FUNCTIONS: frozenset[str] = frozenset({})

EXCUSE = re.compile(r"#\s*(?:type:\s*ignore|noqa)")
REASONED = re.compile(
    r"#\s*(?:type:\s*ignore\[[\w,\- ]+\]|noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)\s+#\s*\S"
)


def main() -> int:
    """Print each fault with its place. Returns 1 if there is one."""
    faults = list(check(ROOT))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def check(root: Path) -> Iterator[str]:
    """The faults of the tree at `root`, each a line that says what to do."""
    files = sorted(sources(root))
    found: dict[str, set[str]] = {"LONG_FILES": set(), "LONG_FUNCTIONS": set()}
    ignores: dict[str, int] = {}
    for path in files:
        name, text = str(path.relative_to(root)), path.read_text()
        yield from check_length(name, text, found["LONG_FILES"])
        if path.suffix == ".py":
            yield from check_functions(name, text, found["LONG_FUNCTIONS"])
            if not name.startswith("tests/"):
                yield from check_excuses(name, text)
            ignores[name] = sum("type: ignore" in comment for _, comment in comments(text))
    yield from check_type_ignores(ignores)
    yield from check_test_names(files, root)
    yield from needless("LONG_FILES", LONG_FILES - found["LONG_FILES"])
    yield from needless("LONG_FUNCTIONS", LONG_FUNCTIONS - found["LONG_FUNCTIONS"])


def sources(root: Path) -> Iterator[Path]:
    """The files that the rules are about."""
    for pattern in SOURCES:
        for place in root.glob(pattern):
            found = place.rglob("*") if place.is_dir() else [place]
            yield from (each for each in found if each.suffix in LONGEST_FILE)


def check_length(name: str, text: str, found: set[str]) -> Iterator[str]:
    """Check the length of a file; one that is too long is added to `found`."""
    lines, most = text.count("\n"), LONGEST_FILE[Path(name).suffix]
    if lines > most:
        found.add(name)
        if name not in LONG_FILES:
            yield f"{name}: {lines} lines, and {most} are the limit: split it"


def check_functions(name: str, text: str, found: set[str]) -> Iterator[str]:
    """Check the length of each function; those that are too long are added to `found`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines, title = code_lines(node), f"{name}: {node.name}"
            if lines > LONGEST_FUNCTION:
                found.add(title)
                if title not in LONG_FUNCTIONS:
                    yield (
                        f"{name}:{node.lineno}: {node.name} has {lines} lines of code, and "
                        f"{LONGEST_FUNCTION} are the limit: name its steps"
                    )


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function's body without its docstring."""
    first = function.body[1:2] if ast.get_docstring(function) else function.body[:1]
    return (function.end_lineno or 0) - first[0].lineno + 1 if first else 0


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Each comment with the number of its line."""
    for token in generate_tokens(StringIO(text).readline):
        if token.type == COMMENT:
            yield token.start[0], token.string


def check_excuses(name: str, text: str) -> Iterator[str]:
    """Check that whatever silences a tool says why."""
    for line, comment in comments(text):
        if EXCUSE.match(comment) and not REASONED.match(comment):
            yield f"{name}:{line}: no reason: write `{comment.split('  ')[0]}  # why`"


def check_test_names(files: list[Path], root: Path) -> Iterator[str]:
    """Check that no two files of tests have the same name."""
    first: dict[str, Path] = {}
    for path in files:
        if path.match("test_*.py") and first.setdefault(path.name, path) != path:
            other = first[path.name].relative_to(root)
            yield f"{path.relative_to(root)}: {other} has this name, too: rename one"


def check_type_ignores(ignores: dict[str, int]) -> Iterator[str]:
    """Check how many ``type: ignore`` the package has."""
    own = {name: count for name, count in ignores.items() if name.startswith("shm_async/")}
    if sum(own.values()) > MOST_TYPE_IGNORES:
        places = ", ".join(name for name, count in own.items() if count)
        yield (
            f"shm_async has {sum(own.values())} `type: ignore` ({places}), and "
            f"{MOST_TYPE_IGNORES} are the limit: give a thing the type that it has"
        )


def needless(list_name: str, names: set[str] | frozenset[str]) -> Iterator[str]:
    """A fault for each exception that nothing needs any more."""
    for name in sorted(names):
        yield f"tools/house.py: {list_name} needs {name!r} no more: remove it from the list"


if __name__ == "__main__":
    sys.exit(main())
