"""Describe the C shim to cffi: the contract is shim.h, the rest are its sources."""

from pathlib import Path

from cffi import FFI

SHIM = "shm_async/_shim"  # relative, as sdist and wheel builds want it
SOURCES = [
    f"{SHIM}/{name}.c"
    for name in (
        "interrupt",
        "segment",
        "sysv",
        "mapping",
        "gate",
        "flock",
        "copies",
        "watch",
        "waiter",
    )
]
HEADERS = [f"{SHIM}/{name}.h" for name in ("shim", "lock", "interrupt")]

ffibuilder = FFI()
ffibuilder.cdef((Path(__file__).parent / HEADERS[0]).read_text())
ffibuilder.set_source(
    "shm_async._shim_ffi",
    '#include <stdint.h>\n#include "shim.h"\n',
    sources=SOURCES,
    depends=HEADERS,
    include_dirs=[SHIM],
    libraries=["pthread", "rt"],  # in libc itself since glibc 2.34
    extra_compile_args=["-fvisibility=hidden"],  # within the extension calls are plain calls
    py_limited_api=True,
)
