"""Describe the C shim to cffi: the contract is in the headers of CONTRACT, the rest is private."""

import os
import sysconfig
from pathlib import Path

from cffi import FFI

SHIM = "shm_async/_shim"  # relative, as sdist and wheel builds want it
#: What cffi reads, in this order; shim.h includes the same for C.
CONTRACT = ["lock_bytes", "control", "objects", "locking", "watching"]
#: One translation unit, so that the compiler looks across the stories.
WHOLE = f"{SHIM}/whole.c"

DEBUGGED = "-g" in os.environ.get("CFLAGS", "")
#: Python's own -O3 makes the C half as large again. Most of that is padding, computing things in
#: advance, and tables by which an exception of C++ or a debugger would find its way through the
#: calls. What is called most is in one piece all the same: see SHMA_ONE_PIECE in internal.h.
SMALL = ["-O2", "-fno-plt", "-fno-tree-pre", "-fno-asynchronous-unwind-tables"]
SMALL += [f"-fno-align-{what}" for what in ("functions", "loops", "jumps", "labels")]

ffibuilder = FFI()
for header in CONTRACT:
    ffibuilder.cdef((Path(__file__).parent / SHIM / f"{header}.h").read_text())
ffibuilder.set_source(
    "shm_async._shim_ffi",
    '#include "shim.h"\n#include "brief.h"\n',
    sources=[WHOLE],
    depends=[str(path) for path in Path(SHIM).glob("*.[ch]")],
    include_dirs=[SHIM],
    libraries=["pthread", "rt"],  # in libc itself since glibc 2.34
    extra_compile_args=[
        *([] if DEBUGGED else SMALL),
        "-fvisibility=hidden",  # within the extension calls are plain calls
        f"-ffile-prefix-map={Path.cwd()}=.",  # the same bytes wherever it is built
    ],
    # Python's own flags ask for symbols, which are three quarters of the size; and sections need
    # no pages of their own, as none of them holds what must not be run
    extra_link_args=[] if DEBUGGED else ["-Wl,-s", "-Wl,-z,noseparate-code"],
    py_limited_api=not sysconfig.get_config_var("Py_GIL_DISABLED"),  # no stable ABI there
)
