"""An address range that cannot be unmapped while a view of it lives."""

import errno
import os
import resource

from . import _native


class Mapping:
    """The first `size` bytes of a shared-memory object, in this process.

    There is no call to unmap it: the kernel gets the range back when the last
    reference to it, from a view or from this object, is gone. A view that
    outlives its region is stale, but never a crash.
    """

    __slots__ = ("address", "name", "readonly", "size")

    def __init__(self, fd: int, size: int, *, readonly: bool, name: str) -> None:
        self.name = name
        self.size = size
        self.readonly = readonly
        self.address = _native.map_memory(fd, size, writable=not readonly, name=name)

    def view(self, nbytes: int) -> memoryview:
        """The first `nbytes` bytes; read-only if the mapping is."""
        view = _native.memory_of(self.address, nbytes)
        return view.toreadonly() if self.readonly else view

    def control(self) -> _native.Control:
        """The control page at the end of it; valid as long as this mapping is."""
        return _native.control_at(self.address, self.size - _native.CONTROL_SIZE)

    def gate_hint(self) -> memoryview:
        """The gate's hint in that control page; keeps it mapped."""
        return _native.gate_hint(self.address, self.size - _native.CONTROL_SIZE)

    def lock_memory(self) -> None:
        """Keep every page in memory once it has been touched (mlock2 with MLOCK_ONFAULT).

        Raises:
            OSError: the kernel refused; names the limit.
        """
        code = _native.lock_memory(self.address, self.size)
        if code < 0:
            soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
            raise OSError(
                errno.ENOMEM if code == -errno.EAGAIN else -code,
                f"cannot lock {self.size} bytes in memory ({os.strerror(-code)}): "
                f"RLIMIT_MEMLOCK allows {_limit(soft)} (at most {_limit(hard)}); "
                "raise it (ulimit -l, LimitMEMLOCK=) or open the region without lock_memory",
                self.name,
            )


def _limit(value: int) -> str:
    return "any number of bytes" if value == resource.RLIM_INFINITY else f"{value} bytes"
