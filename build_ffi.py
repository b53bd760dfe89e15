"""Describe the C shim to cffi: the contract is in the headers of CONTRACT, the rest is private."""

import os
from pathlib import Path

from cffi import FFI

SHIM = "shm_async/_shim"  # relative, as sdist and wheel builds want it
#: What cffi reads, in this order; shim.h includes the same for C.
CONTRACT = ["lock_bytes", "control", "objects", "locking", "watching"]
#: One translation unit, so that the compiler looks across the stories.
WHOLE = f"{SHIM}/whole.c"

ffibuilder = FFI()
for header in CONTRACT:
    ffibuilder.cdef((Path(__file__).parent / SHIM / f"{header}.h").read_text())
ffibuilder.set_source(
    "shm_async._shim_ffi",
    '#include "shim.h"\n',
    sources=[WHOLE],
    depends=[str(path) for path in Path(SHIM).glob("*.[ch]")],
    include_dirs=[SHIM],
    libraries=["pthread", "rt"],  # in libc itself since glibc 2.34
    extra_compile_args=[
        "-fvisibility=hidden",  # within the extension calls are plain calls
        f"-ffile-prefix-map={Path.cwd()}=.",  # the same bytes wherever it is built
    ],
    # Python's own flags ask for symbols, which are three quarters of the size
    extra_link_args=[] if "-g" in os.environ.get("CFLAGS", "") else ["-Wl,-s"],
    py_limited_api=True,
)
