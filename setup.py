"""What pyproject.toml cannot say yet: the cffi module, and that its ABI is the stable one."""

import sysconfig

from setuptools import setup

# free-threaded builds have no stable ABI before 3.15
stable = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if stable else {},
)
