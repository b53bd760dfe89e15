"""An address range that cannot be unmapped while a view of it lives."""

import errno
import mmap
import os
import resource
from collections.abc import Callable

from .. import _native

MAP_NORESERVE = 0x4000  # Linux; Python has no name for it


class Mapping:
    """The first `size` bytes of a segment, in this process.

    No call unmaps it. The range is unmapped when the last reference to it, from a view, a lock
    or this object, is gone. A view that outlives its region is stale, but cannot crash.
    """

    __slots__ = ("address", "memory", "name", "readonly", "size")

    def __init__(
        self, size: int, place: Callable[[_native.Address], None], *, readonly: bool, name: str
    ) -> None:
        """Map a private range of `size` bytes; `place` then maps the segment over it."""
        self.name = name
        self.size = size
        self.readonly = readonly
        self.memory = _private_range(size, readonly=readonly, name=name)
        self.address = _native.address_of(self.memory)
        place(self.address)

    def view(self, nbytes: int, offset: int = 0) -> memoryview:
        """Return a view of `nbytes` bytes from `offset` on; read-only if the mapping is."""
        return memoryview(self.memory)[offset : offset + nbytes]

    def control(self) -> _native.Control:
        """Return the control page at its end; valid as long as this mapping is."""
        return _native.control_at(self.address, self.size - _native.CONTROL_SIZE)

    def gate_hint(self) -> memoryview:
        """Return a view of the gate's hint in that control page, as one unsigned int."""
        start = self.size - _native.CONTROL_SIZE + _native.GATE_HINT
        return memoryview(self.memory)[start : start + 4].cast("I").toreadonly()

    def move_to(self, fd: int) -> None:
        """Map the same object through another descriptor of it. All views stay valid."""
        writable = not self.readonly
        _native.place(self.address, self.size, fd, writable=writable, name=self.name)

    def discard(self) -> None:
        """Unmap the object although views are left: from now on they see private zeros."""
        _native.discard(self.address, self.size, writable=not self.readonly, name=self.name)

    def lock_memory(self) -> None:
        """Keep every page in memory once it has been touched (mlock2 with MLOCK_ONFAULT).

        Raises:
            OSError: the kernel refused; the message names the limit.
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


def _private_range(size: int, *, readonly: bool, name: str) -> mmap.mmap:
    """Return private address space, over which the object is then mapped.

    It is never closed. An mmap object unmaps when nothing refers to it any more, and has no
    finalizer that a garbage collector could run while others still use it. An mmap object made
    from the object's descriptor would keep a copy of the descriptor open.
    """
    prot = mmap.PROT_READ if readonly else mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    try:
        return mmap.mmap(-1, size, flags=flags, prot=prot)
    except OSError as error:
        raise OSError(error.errno, f"cannot map {size} bytes: {error.strerror}", name) from None
    except OverflowError:
        raise OSError(errno.ENOMEM, f"cannot map {size} bytes", name) from None


def _limit(value: int) -> str:
    return "any number of bytes" if value == resource.RLIM_INFINITY else f"{value} bytes"
