"""The only module that touches the compiled shim: typed calls, -errno -> OSError.

The lock's functions are bound here under their own names and called without a
wrapper, as an uncontended lock is little more than that one call; they return
0 or -errno. All the others raise.
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from ._shim_ffi import ffi, lib

__all__ = [
    "BUSY",
    "CALLED_OFF",
    "CONTROL_SIZE",
    "FORKED",
    "INTERRUPTED",
    "NOT_YET",
    "NULL_LOCK",
    "SHRUNK",
    "Address",
    "Control",
    "LockHandle",
    "check",
    "control_at",
    "control_from_bytes",
    "control_generation",
    "control_to_bytes",
    "gate_hint",
    "lock_begin",
    "lock_bind",
    "lock_downgrade",
    "lock_end",
    "lock_give_up",
    "lock_memory",
    "lock_mode",
    "lock_mode_here",
    "lock_open",
    "lock_release",
    "lock_try_exclusive",
    "lock_try_nested",
    "lock_try_shared",
    "lock_wait",
    "map_memory",
    "memory_of",
    "reserve",
    "waiter_cancel",
    "waiter_fd",
    "waiter_finish",
    "waiter_start",
]

Address: TypeAlias = Any  #: an address range, unmapped when the last reference dies
Control: TypeAlias = Any  #: a ``shma_control *``
LockHandle: TypeAlias = Any  #: a ``shma_lock *``, freed when the last reference dies

# what the lock's functions return
BUSY = -errno.EWOULDBLOCK
CALLED_OFF = -errno.ECANCELED
FORKED = -errno.EBADF
INTERRUPTED = -errno.EINTR
NOT_YET = -errno.EINPROGRESS
SHRUNK = -errno.ERANGE

CONTROL_SIZE: int = ffi.sizeof("shma_control")

#: The lock that is no more: every call on it returns FORKED.
NULL_LOCK: LockHandle = ffi.NULL

lock_try_shared: Callable[[LockHandle], int] = lib.shma_lock_try_shared
lock_try_exclusive: Callable[[LockHandle], int] = lib.shma_lock_try_exclusive
lock_try_nested: Callable[[LockHandle], int] = lib.shma_lock_try_nested
lock_give_up: Callable[[LockHandle], None] = lib.shma_lock_give_up
lock_wait: Callable[[LockHandle, bool, int], int] = lib.shma_lock_wait
lock_release: Callable[[LockHandle], int] = lib.shma_lock_release
lock_begin: Callable[[LockHandle], int] = lib.shma_lock_begin
lock_end: Callable[[LockHandle], int] = lib.shma_lock_end
lock_downgrade: Callable[[LockHandle], int] = lib.shma_lock_downgrade
lock_mode: Callable[[LockHandle], int] = lib.shma_lock_mode
lock_mode_here: Callable[[LockHandle], int] = lib.shma_lock_mode_here
lock_bind: Callable[[LockHandle], None] = lib.shma_lock_bind
waiter_start: Callable[[LockHandle, bool], int] = lib.shma_waiter_start
waiter_finish: Callable[[LockHandle], int] = lib.shma_waiter_finish
waiter_cancel: Callable[[LockHandle], int] = lib.shma_waiter_cancel
control_generation: Callable[[Control], int] = lib.shma_control_generation


def check(code: int, doing: str, name: str) -> int:
    """Return a call's result, or raise the OSError that it stands for.

    Args:
        code: what the shim returned: >= 0 or -errno.
        doing: what was tried, for the message: "map 4096 bytes".
        name: the region's name, for ``filename``.
    """
    if code < 0:
        raise OSError(-code, f"cannot {doing}: {os.strerror(-code)}", name)
    return code


def reserve(fd: int, size: int, name: str) -> None:
    """Reserve the first `size` bytes of `fd`. Blocks while the kernel zeroes them."""
    while (code := lib.shma_segment_reserve(fd, size)) == INTERRUPTED:
        pass  # back in Python, signal handlers have run: again
    check(code, f"reserve {size} bytes", name)


def map_memory(fd: int, size: int, *, writable: bool, name: str) -> Address:
    """Map the first `size` bytes of `fd`; unmapped when the last reference dies."""
    out = ffi.new("void **")
    check(lib.shma_mapping_new(fd, size, writable, out), f"map {size} bytes", name)
    return ffi.gc(out[0], partial(_unmap, size), size)


def _unmap(size: int, address: Address, free: Any = lib.shma_mapping_free) -> None:
    free(address, size)


def lock_memory(address: Address, size: int) -> int:
    """Keep the range in memory once touched (mlock2). Returns 0 or -errno."""
    code: int = lib.shma_mapping_lock(address, size)
    return code


def memory_of(address: Address, size: int) -> memoryview:
    """The range's bytes; the view, and all made from it, keep the range mapped."""
    return memoryview(ffi.buffer(address, size))


def control_at(address: Address, offset: int) -> Control:
    """The control page at `offset` bytes; does not keep the range mapped."""
    return ffi.cast("shma_control *", ffi.cast("char *", address) + offset)


def gate_hint(address: Address, offset: int) -> memoryview:
    """The gate's hint in the control page at `offset`, as one unsigned int; keeps it mapped."""
    size = offset + CONTROL_SIZE
    start = offset + ffi.offsetof("shma_control", "gate")
    return memoryview(ffi.buffer(address, size))[start : start + 4].cast("I").toreadonly()


def control_from_bytes(page: bytes) -> Control:
    """A control page's fields, as attributes, read from a private copy."""
    control = ffi.new("shma_control *")
    ffi.memmove(control, page, CONTROL_SIZE)
    return control


def control_to_bytes(**fields: int | bytes) -> bytes:
    """A control page with these fields, all others zero."""
    return bytes(ffi.buffer(ffi.new("shma_control *", fields)))


def lock_open(
    path: str,
    *,
    writable: bool,
    identity: tuple[int, int],
    size: int,
    address: Address,
    control: Control | None,
    owner: tuple[int, int],
    name: str,
) -> LockHandle:
    """Open a new lock on the object that `path` leads to; closed when the last reference dies.

    Args:
        path: where to open it.
        writable: for reading and writing, or for reading alone.
        identity: st_dev and st_ino of the object, ESTALE if it is another one.
        size: bytes that it must have at every grant.
        address: the mapping that has `control`, kept as long as the lock.
        control: the control page to mark, if any.
        owner: our pid and start time.
        name: the region's name, for errors.
    """
    out = ffi.new("shma_lock **")
    code = lib.shma_lock_new(
        out, path.encode(), writable, *identity, size, control or ffi.NULL, *owner
    )
    check(code, f"open {path} again for a lock", name)
    return ffi.gc(out[0], partial(_free_lock, address))


def _free_lock(_address: Address, lock: LockHandle, free: Any = lib.shma_lock_free) -> None:
    free(lock)  # the control page that it marks stays mapped until here


def waiter_fd(lock: LockHandle, name: str) -> int:
    """The eventfd that tells that a request of `lock` has ended."""
    return check(lib.shma_waiter_fd(lock), "make an eventfd", name)
