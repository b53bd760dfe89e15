"""A program that is frozen (PyInstaller and its like) gets the modules that Python code imports."""

import ast
import json
from pathlib import Path

import pytest

import shm_async
from shm_async import _shim_ffi

pytestmark = pytest.mark.once

LOADED_IN_C = """
import json, sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
before = set(sys.modules)
loader = ExtensionFileLoader("_shim_ffi", sys.argv[2])
module = module_from_spec(spec_from_file_location("_shim_ffi", sys.argv[2], loader=loader))
loader.exec_module(module)
loaded = set(sys.modules) - before
print(json.dumps(sorted(each for each in loaded if "_shim_ffi" not in each)))
"""


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            package = f"{node.module}." if node.module else ""
            found |= {package + alias.name for alias in node.names}
    return found


def trees() -> dict[str, ast.Module]:
    """Of the library; the command is a program of its own."""
    sources = Path(shm_async.__file__).parent.glob("*.py")
    return {
        source.name: ast.parse(source.read_text()) for source in sources if source.name != "cli.py"
    }


def test_what_the_compiled_module_imports_is_imported_in_python_too(run_python):
    done = run_python(LOADED_IN_C, str(_shim_ffi.__file__))
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert "_cffi_backend" in loaded, "else this test proves nothing"
    assert set(loaded) <= set().union(*map(imports, trees().values()))


def test_what_is_imported_by_a_computed_name_is_imported_by_a_statement_too():
    computing = [name for name, tree in trees().items() if "importlib" in imports(tree)]
    assert computing == ["__init__.py"]
    functions = [
        node for node in trees()["__init__.py"].body if isinstance(node, ast.FunctionDef)
    ]  # what stands under TYPE_CHECKING is left out by some
    assert set(shm_async._HOMES.values()) <= set().union(*map(imports, functions))
