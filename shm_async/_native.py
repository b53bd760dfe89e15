"""The only module that touches the compiled shim: typed calls, -errno -> OSError.

The lock's functions are bound here under their own names and called without a
wrapper, as an uncontended lock is little more than that one call; they return
0 or -errno. All the others raise.
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from mmap import mmap
from typing import Any, TypeAlias

from ._shim_ffi import ffi, lib

__all__ = [
    "ANY_SIGNAL",
    "BUSY",
    "CALLED_OFF",
    "CONTROL_SIZE",
    "DIED",
    "FORKED",
    "GATE_HINT",
    "INTERRUPTED",
    "MARK",
    "MARK_LATER",
    "NOT_YET",
    "NO_SIGNAL",
    "RECOVER",
    "REPLACED",
    "SHRUNK",
    "UNLINKED",
    "Address",
    "Control",
    "LockCloser",
    "LockHandle",
    "Snapshot",
    "SysvFacts",
    "WatchCloser",
    "WatchHandle",
    "address_of",
    "check",
    "choose_signal",
    "claim",
    "control_at",
    "control_from_bytes",
    "control_generation",
    "control_to_bytes",
    "discard",
    "lock_begin",
    "lock_bind",
    "lock_commit",
    "lock_downgrade",
    "lock_end",
    "lock_give_up",
    "lock_memory",
    "lock_mode",
    "lock_mode_here",
    "lock_open",
    "lock_recovered",
    "lock_release",
    "lock_sound",
    "lock_try_exclusive",
    "lock_try_manner",
    "lock_try_nested",
    "lock_try_shared",
    "lock_upgrade",
    "lock_wait",
    "place",
    "reserve",
    "snapshot_after",
    "snapshot_before",
    "snapshot_of",
    "sysv_create",
    "sysv_find",
    "sysv_place",
    "sysv_read",
    "sysv_remove",
    "sysv_stat",
    "waiter_cancel",
    "waiter_fd",
    "waiter_finish",
    "waiter_start",
    "watch_add",
    "watch_look",
    "watch_open",
    "watch_read",
    "watch_remove",
]

Address: TypeAlias = Any  #: an address range; keeps it mapped
Control: TypeAlias = Any  #: a ``shma_control *``
LockHandle: TypeAlias = Any  #: a ``shma_lock *``, its memory ours
SysvFacts: TypeAlias = Any  #: a ``shma_sysv_facts *``
Snapshot: TypeAlias = Any  #: a ``shma_snapshot *``
LockCloser: TypeAlias = Any  #: closes a lock when the last reference dies
WatchHandle: TypeAlias = Any  #: a ``shma_watch *``, its memory ours
WatchCloser: TypeAlias = Any  #: closes an inotify instance when the last reference dies

# what the lock's functions return
BUSY = -errno.EWOULDBLOCK
CALLED_OFF = -errno.ECANCELED
DIED = -errno.EOWNERDEAD
FORKED = -errno.EBADF
INTERRUPTED = -errno.EINTR
NOT_YET = -errno.EINPROGRESS
REPLACED = -errno.ESTALE
SHRUNK = -errno.ERANGE
UNLINKED = -errno.ENOLINK

# in what manner a write lock begins, see shim.h
MARK: int = lib.SHMA_MARK
RECOVER: int = lib.SHMA_RECOVER
MARK_LATER: int = lib.SHMA_MARK_LATER

# what interrupts a blocked lock, if no signal by its number
ANY_SIGNAL: int = lib.SHMA_INTERRUPT_ANY
NO_SIGNAL: int = lib.SHMA_INTERRUPT_OFF

CONTROL_SIZE: int = ffi.sizeof("shma_control")
GATE_HINT: int = ffi.offsetof("shma_control", "gate")

lock_try_shared: Callable[[LockHandle], int] = lib.shma_lock_try_shared
lock_try_exclusive: Callable[[LockHandle], int] = lib.shma_lock_try_exclusive
lock_try_manner: Callable[[LockHandle, int], int] = lib.shma_lock_try_manner
lock_try_nested: Callable[[LockHandle], int] = lib.shma_lock_try_nested
lock_give_up: Callable[[LockHandle], None] = lib.shma_lock_give_up
lock_wait: Callable[[LockHandle, bool, int, int], int] = lib.shma_lock_wait
lock_release: Callable[[LockHandle], int] = lib.shma_lock_release
lock_begin: Callable[[LockHandle, int], int] = lib.shma_lock_begin
lock_end: Callable[[LockHandle], int] = lib.shma_lock_end
lock_sound: Callable[[LockHandle], int] = lib.shma_lock_sound
lock_recovered: Callable[[LockHandle], int] = lib.shma_lock_recovered
lock_downgrade: Callable[[LockHandle], int] = lib.shma_lock_downgrade
lock_upgrade: Callable[[LockHandle], int] = lib.shma_lock_upgrade
lock_mode: Callable[[LockHandle], int] = lib.shma_lock_mode
lock_mode_here: Callable[[LockHandle], int] = lib.shma_lock_mode_here
lock_bind: Callable[[LockHandle], None] = lib.shma_lock_bind
waiter_start: Callable[[LockHandle, bool], int] = lib.shma_waiter_start
waiter_finish: Callable[[LockHandle], int] = lib.shma_waiter_finish
waiter_cancel: Callable[[LockHandle], int] = lib.shma_waiter_cancel
watch_look: Callable[[LockHandle, int, bool], int] = lib.shma_watch_look
watch_remove: Callable[[WatchHandle, int], int] = lib.shma_watch_remove
choose_signal: Callable[[int], None] = lib.shma_interrupt_choose
control_generation: Callable[[Control], int] = lib.shma_control_generation
snapshot_before: Callable[[Snapshot], int] = lib.shma_snapshot_before
snapshot_after: Callable[[Snapshot], int] = lib.shma_snapshot_after


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


def claim(fd: int, byte: int, kind: int, name: str) -> bool:
    """Claim a byte of the object, or let go of it (see shim.h). False: somebody else has it."""
    code = lib.shma_segment_claim(fd, byte, kind)
    if code == BUSY:
        return False
    check(code, "claim the segment", name)
    return True


def sysv_create(key: int, size: int, mode: int, *, reserve: bool) -> int:
    """Make a System V segment. Returns its id or -errno."""
    code: int = lib.shma_sysv_create(key, size, mode, reserve)
    return code


def sysv_find(key: int) -> int:
    """The id of the segment with that key, or -errno."""
    code: int = lib.shma_sysv_find(key)
    return code


def sysv_stat(segment: int) -> tuple[int, SysvFacts]:
    """0 or -errno, and what the kernel says of the segment with that id."""
    facts = ffi.new("shma_sysv_facts *")
    return lib.shma_sysv_stat(segment, facts), facts


def sysv_place(segment: int, address: Address, *, writable: bool) -> int:
    """Attach a whole segment in place of the private range at `address`: 0 or -errno."""
    code: int = lib.shma_sysv_place(segment, address, writable)
    return code


def sysv_read(segment: int, offset: int, size: int) -> tuple[int, bytes]:
    """0 or -errno, and `size` bytes of a segment."""
    target = ffi.new("uint8_t[]", size)
    return lib.shma_sysv_read(segment, offset, target, size), bytes(ffi.buffer(target))


def sysv_remove(segment: int) -> int:
    """Remove a segment: 0 or -errno."""
    code: int = lib.shma_sysv_remove(segment)
    return code


def address_of(memory: mmap) -> Address:
    """Where a mapping lies; keeps it mapped."""
    return ffi.from_buffer(memory)


def place(address: Address, size: int, fd: int, *, writable: bool, name: str) -> None:
    """Map the first `size` bytes of `fd` in place of the private range at `address`."""
    check(lib.shma_mapping_place(address, size, fd, writable), f"map {size} bytes", name)


def discard(address: Address, size: int, *, writable: bool, name: str) -> None:
    """Put private zeros in place of what is mapped at `address`."""
    check(lib.shma_mapping_discard(address, size, writable), f"unmap {size} bytes", name)


def lock_memory(address: Address, size: int) -> int:
    """Keep the range in memory once touched (mlock2). Returns 0 or -errno."""
    code: int = lib.shma_mapping_lock(address, size)
    return code


def control_at(address: Address, offset: int) -> Control:
    """The control page at `offset` bytes; does not keep the range mapped."""
    return ffi.cast("shma_control *", ffi.cast("char *", address) + offset)


def control_from_bytes(page: bytes) -> Control:
    """A control page's fields, as attributes, read from a private copy."""
    control = ffi.new("shma_control *")
    ffi.memmove(control, page, CONTROL_SIZE)
    return control


def control_to_bytes(**fields: int | bytes | tuple[int, ...]) -> bytes:
    """A control page with these fields, all others zero."""
    return bytes(ffi.buffer(ffi.new("shma_control *", fields)))


def snapshot_of(control: Control, fd: int, size: int, *, linked: bool, sysv: int) -> Snapshot:
    """What `snapshot_before` and `snapshot_after` want; does not keep the range mapped."""
    fields = {"control": control, "fd": fd, "size": size, "linked": linked, "sysv": sysv}
    return ffi.new("shma_snapshot *", fields)


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
) -> tuple[LockHandle, LockCloser]:
    """Open a new lock on the object that `path` leads to.

    Args:
        path: where to open it.
        writable: for reading and writing, or for reading alone.
        identity: st_dev and st_ino of the object, ESTALE if it is another one.
        size: bytes that it must have at every grant.
        address: the mapping that has `control`, kept until the lock is closed.
        control: the control page to mark, if any.
        owner: our pid and start time.
        name: the region's name, for errors.

    Returns:
        The lock, and what closes it when its last reference dies. The lock itself stays
        valid memory for as long as anybody has it: a closed one returns FORKED.
    """
    lock = ffi.new("shma_lock *")
    code = lib.shma_lock_open(
        lock, path.encode(), writable, *identity, size, control or ffi.NULL, *owner
    )
    check(code, f"open {path} again for a lock", name)
    return lock, ffi.gc(lock, partial(_close_lock, address))


def _close_lock(address: Address, lock: LockHandle, close: Any = lib.shma_lock_close) -> None:
    if close(lock) < 0:
        _stuck.append((address, lock))


#: Locks whose waiting thread cannot be stopped: better a leak than a crash.
_stuck: list[tuple[Address, LockHandle]] = []


def lock_commit(lock: LockHandle, data: memoryview, copy: bytearray) -> int:
    """Write `copy` over the writable `data`, of the same size. Returns 0 or -errno."""
    target = ffi.from_buffer("uint8_t[]", data, require_writable=True)
    code: int = lib.shma_lock_commit(lock, target, ffi.from_buffer("uint8_t[]", copy), len(copy))
    return code


def waiter_fd(lock: LockHandle, name: str) -> int:
    """The eventfd that tells that a request of `lock` has ended."""
    return check(lib.shma_waiter_fd(lock), "make an eventfd", name)


def watch_open() -> tuple[int, WatchHandle, WatchCloser]:
    """0 or -errno, a new inotify instance, and what closes it when its last reference dies."""
    watch = ffi.new("shma_watch *")
    return lib.shma_watch_open(watch), watch, ffi.gc(watch, lib.shma_watch_close)


def watch_add(watch: WatchHandle, path: str) -> int:
    """Watch what `path` leads to. Returns the watch descriptor or -errno."""
    code: int = lib.shma_watch_add(watch, path.encode())
    return code


def watch_read(watch: WatchHandle) -> list[int]:
    """The watch descriptors of some events that have come in; -1 among them: some were lost."""
    return list(watch.found[0 : max(0, lib.shma_watch_read(watch))])
