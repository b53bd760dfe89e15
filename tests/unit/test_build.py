"""A build that cannot work says what to install, before anything is downloaded or compiled."""

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import shm_async

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.once


@pytest.fixture
def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_backend", ROOT / "build_backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = ["get_requires_for_build_wheel", "get_requires_for_build_editable"]


@pytest.mark.parametrize("hook", HOOKS)
def test_without_a_compiler_it_names_the_packages(backend: ModuleType, monkeypatch, hook: str):
    monkeypatch.setenv("CC", "no-such-cc -O2")
    with pytest.raises(SystemExit) as caught:
        getattr(backend, hook)()
    said = str(caught.value)
    assert "the C compiler 'no-such-cc' is not here" in said
    for package in ("build-essential python3-dev", "gcc python3-devel", "build-base python3-dev"):
        assert package in said


def test_without_the_headers_it_names_the_packages(
    backend: ModuleType, monkeypatch, tmp_path: Path
):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.delenv("CPATH", raising=False)
    with pytest.raises(SystemExit, match=r"no .*/Python\.h\.\n.*\n.*build-essential python3-dev"):
        backend.check_compiler()
    (tmp_path / "Python.h").touch()
    backend.check_compiler()


@pytest.mark.parametrize("hook", HOOKS)
def test_free_threaded_3_13_is_refused_with_what_is_needed(
    backend: ModuleType, monkeypatch, hook: str
):
    monkeypatch.setattr(backend, "FREE_THREADED", True)
    monkeypatch.setattr(backend.sys, "version_info", (3, 13, 5))
    with pytest.raises(SystemExit, match=r"(?s)free-threaded Python 3\.13.*3\.14 or newer"):
        getattr(backend, hook)()


def test_other_free_threaded_pythons_are_not(backend: ModuleType, monkeypatch):
    monkeypatch.setattr(backend, "FREE_THREADED", True)
    monkeypatch.setattr(backend.sys, "version_info", (3, 14, 0))
    backend.check_interpreter()


def test_the_version_has_one_source():
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert shm_async.__version__.count(".") == 2
    assert f'"{shm_async.__version__}"' not in pyproject
    assert 'attr = "shm_async.__version__"' in pyproject
