"""setuptools' build backend, with a look first at what a build needs: pip shows what it says.

cffi is asked for here and not in pyproject.toml, because pip installs that list before anything
of ours runs, and an interpreter that cffi refuses would get cffi's words instead of these.
"""

import gzip
import io
import os
import shlex
import shutil
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the hooks that stay as they are

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
CFFI = "cffi>=2.0" if FREE_THREADED else "cffi>=1.16"  # 2.0 is the first for such builds

INSTALL = (
    "Install a C compiler and Python's headers, and try again:\n"
    "  Debian, Ubuntu   apt install build-essential python3-dev\n"
    "  Fedora, RHEL     dnf install gcc python3-devel\n"
    "  Alpine           apk add build-base python3-dev"
)


def check_interpreter() -> None:
    """Refuse what cffi refuses."""
    if FREE_THREADED and sys.version_info < (3, 14):
        raise SystemExit(
            "shm-async cannot be built for the free-threaded Python 3.13: cffi does not support "
            "it.\nUse python3.13 (not python3.13t), or a free-threaded Python 3.14 or newer, "
            "which cffi supports from 2.0 on."
        )


def check_compiler() -> None:
    """Say what to install where the C shim cannot be compiled."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise SystemExit(
            f"shm-async has a part in C, and the C compiler {compiler!r} is not here.\n{INSTALL}\n"
            "If you have another compiler, name it: CC=clang"
        )
    include = sysconfig.get_path("include")
    if not os.path.exists(f"{include}/Python.h") and "CPATH" not in os.environ:
        raise SystemExit(
            f"shm-async has a part in C, and Python's headers are not here: no {include}/Python.h."
            f"\n{INSTALL}\n"
            "For another Python than the system's, install its headers, not python3-dev; "
            "CPATH names them where they are elsewhere."
        )


def _needs(
    hook: Callable[[Any], list[str]], settings: Mapping[str, Any] | None, *, compiles: bool
) -> list[str]:
    if compiles:
        check_interpreter()
        check_compiler()
    return [*hook(settings), CFFI]


def get_requires_for_build_wheel(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return _needs(build_meta.get_requires_for_build_wheel, config_settings, compiles=True)


def get_requires_for_build_editable(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return _needs(build_meta.get_requires_for_build_editable, config_settings, compiles=True)


def build_sdist(sdist_directory: str, config_settings: Mapping[str, Any] | None = None) -> str:
    """Make the sdist; with SOURCE_DATE_EPOCH the same sources give the same bytes."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    if "SOURCE_DATE_EPOCH" in os.environ:
        _forget_times(f"{sdist_directory}/{name}", int(os.environ["SOURCE_DATE_EPOCH"]))
    return name


def _forget_times(path: str, when: int) -> None:
    """Write an archive again, with one time and one owner for all files, and in one order."""
    with tarfile.open(path) as archive:
        files = [
            (member, archive.extractfile(member) if member.isfile() else None)
            for member in sorted(archive.getmembers(), key=lambda member: member.name)
        ]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as again:
            for member, content in files:
                member.mtime, member.uid, member.gid = when, 0, 0
                member.uname = member.gname = ""
                member.pax_headers = {}
                again.addfile(member, content)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=when) as zipped:
        zipped.write(packed.getvalue())


def get_requires_for_build_sdist(config_settings: Mapping[str, Any] | None = None) -> list[str]:
    return _needs(build_meta.get_requires_for_build_sdist, config_settings, compiles=False)
