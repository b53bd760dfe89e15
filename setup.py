"""What pyproject.toml cannot say: the cffi module, its stable ABI, and what a wheel has packed."""

import gzip
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

from build_backend import check_compiler

# free-threaded builds have no stable ABI before 3.15
stable = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildChecked(build_ext):
    """Also where no isolated build has asked the backend."""

    def run(self) -> None:
        check_compiler()
        super().run()


def pack(path: Path) -> str:
    """Put a file with gzip in its place: the same bytes at any time."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    return str(packed)


class BuildPacked(build_py):
    """Pack the dashboard's files of text, which a browser unpacks."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for kind in ("*.html", "*.js", "*.css"):
                for file in Path(self.build_lib).glob(f"shm_async/contrib/*/static/{kind}"):
                    pack(file)


class InstallPacked(Distribution().get_command_class("install_data")):
    """Pack the manual page, which `man` unpacks."""

    def run(self) -> None:
        super().run()
        self.outfiles = [pack(Path(f)) if f.endswith(".1") else f for f in self.outfiles]


setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildChecked, "build_py": BuildPacked, "install_data": InstallPacked},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if stable else {},
)
