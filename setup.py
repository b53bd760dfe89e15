"""What pyproject.toml cannot say yet: the cffi module, and that its ABI is the stable one."""

import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext

from build_backend import check_compiler

# free-threaded builds have no stable ABI before 3.15
stable = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildChecked(build_ext):
    """Also where no isolated build has asked the backend."""

    def run(self) -> None:
        check_compiler()
        super().run()


setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildChecked},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if stable else {},
)
