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

import _cffi_backend  # noqa: F401  # imported by _shim_ffi in C, where PyInstaller cannot see it

from ._limits import no_descriptor
from ._shim_ffi import ffi, lib

Address: TypeAlias = Any  #: an address range; keeps it mapped
Control: TypeAlias = Any  #: a ``shma_control *``
LockHandle: TypeAlias = Any  #: a ``shma_lock *``, its memory ours
SysvFacts: TypeAlias = Any  #: a ``shma_sysv_facts *``
Identity: TypeAlias = Any  #: a ``shma_identity *``
Snapshot: TypeAlias = Any  #: a ``shma_snapshot *``
LockCloser: TypeAlias = Any  #: closes a lock when the last reference dies
WatchHandle: TypeAlias = Any  #: a ``shma_watch *``, its memory ours
WatchCloser: TypeAlias = Any  #: closes an inotify instance when the last reference dies

# the lock functions' results
BUSY = -errno.EWOULDBLOCK
CALLED_OFF = -errno.ECANCELED
DIED = -errno.EOWNERDEAD
FORKED = -errno.EBADF
INTERRUPTED = -errno.EINTR
LOST = -errno.EBADFD
PARTED = -errno.EIDRM
NOT_YET = -errno.EINPROGRESS
BEGUN = 1  # of a request: granted, and the write has begun
NO_SIGNAL_LEFT: int = -lib.SHMA_NO_SIGNAL
NO_THREAD: int = -lib.SHMA_NO_THREAD
NO_TIMER: int = -lib.SHMA_NO_TIMER
REPLACED = -errno.ESTALE
SHRUNK = -errno.ERANGE
UNLINKED = -errno.ENOLINK

# bytes that are locked, see lock_bytes.h
GATE_BYTE: int = lib.SHMA_GATE_BYTE
PRESENCE_BYTE: int = lib.SHMA_PRESENCE_BYTE
CREATION_BYTE: int = lib.SHMA_CREATION_BYTE

# the manner in which a write lock begins, see locking.h
MARK: int = lib.SHMA_MARK
RECOVER: int = lib.SHMA_RECOVER
MARK_LATER: int = lib.SHMA_MARK_LATER

# choices of the signal that interrupts a blocked lock, beside a signal's number
ANY_SIGNAL: int = lib.SHMA_INTERRUPT_ANY
NO_SIGNAL: int = lib.SHMA_INTERRUPT_OFF

CONTROL_SIZE: int = ffi.sizeof("shma_control")
GATE_HINT: int = ffi.offsetof("shma_control", "gate")

lock_try_shared: Callable[[LockHandle], int] = lib.shma_lock_try_shared
lock_try_exclusive: Callable[[LockHandle], int] = lib.shma_lock_try_exclusive
lock_try_manner: Callable[[LockHandle, int], int] = lib.shma_lock_try_manner
lock_spin_shared: Callable[[LockHandle], int] = lib.shma_lock_spin_shared
lock_spin_manner: Callable[[LockHandle, int], int] = lib.shma_lock_spin_manner
lock_try_nested: Callable[[LockHandle], int] = lib.shma_lock_try_nested
lock_give_up: Callable[[LockHandle], None] = lib.shma_lock_give_up
lock_wait: Callable[[LockHandle, bool, int, int], int] = lib.shma_lock_wait
lock_look: Callable[[LockHandle, bool, int], int] = lib.shma_lock_look
lock_release: Callable[[LockHandle], int] = lib.shma_lock_release
lock_begin: Callable[[LockHandle, int], int] = lib.shma_lock_begin
lock_end: Callable[[LockHandle], int] = lib.shma_lock_end
lock_pass: Callable[[LockHandle, int, bool], int] = lib.shma_lock_pass
lock_sound: Callable[[LockHandle], int] = lib.shma_lock_sound
lock_recovered: Callable[[LockHandle], int] = lib.shma_lock_recovered
lock_downgrade: Callable[[LockHandle], int] = lib.shma_lock_downgrade
lock_upgrade: Callable[[LockHandle], int] = lib.shma_lock_upgrade
lock_mode: Callable[[LockHandle], int] = lib.shma_lock_mode
lock_mode_here: Callable[[LockHandle], int] = lib.shma_lock_mode_here
lock_bind: Callable[[LockHandle], None] = lib.shma_lock_bind
waiter_start: Callable[[LockHandle, bool], int] = lib.shma_waiter_start
waiter_finish: Callable[[LockHandle, int], int] = lib.shma_waiter_finish
waiter_cancel: Callable[[LockHandle], int] = lib.shma_waiter_cancel
watch_look: Callable[[LockHandle, int, bool], int] = lib.shma_watch_look
watch_remove: Callable[[WatchHandle, int], int] = lib.shma_watch_remove
choose_signal: Callable[[int], None] = lib.shma_interrupt_choose
control_generation: Callable[[Control], int] = lib.shma_control_generation
watch_check: Callable[[WatchHandle], int] = lib.shma_watch_check
waiter_known_fd: Callable[[LockHandle], int] = lib.shma_waiter_known_fd
snapshot_before: Callable[[Snapshot], int] = lib.shma_snapshot_before
snapshot_after: Callable[[Snapshot], int] = lib.shma_snapshot_after


def check(code: int, doing: str, name: str) -> int:
    """Return a call's result, or raise its OSError.

    Args:
        code: the shim's result: >= 0 or -errno.
        doing: the attempted step, for the message: "map 4096 bytes".
        name: the region's name, for ``filename``.
    """
    if code < 0:
        why = no_descriptor() if code == -errno.EMFILE else os.strerror(-code)
        raise OSError(-code, f"cannot {doing}: {why}", name)
    return code


def reserve(fd: int, size: int, name: str) -> None:
    """Reserve the first `size` bytes of `fd`. Blocks while the kernel zeroes them.

    A signal makes older kernels undo the whole call. Under a profiler's timer a call for a large
    object would never end, so after each signal the steps are half as large.
    """
    done, step = 0, size
    while done < size:
        step = min(step, size - done)
        code = lib.shma_segment_reserve(fd, done, step)
        if code == INTERRUPTED:  # here in Python, signal handlers have run
            step = max(step // 2, 1)
        else:
            check(code, f"reserve {size} bytes", name)
            done += step


def claim(fd: int, byte: int, kind: int, name: str) -> bool:
    """Claim a byte of the object, or release it (see objects.h). False: another process has it."""
    code = lib.shma_segment_claim(fd, byte, kind)
    if code == BUSY:
        return False
    check(code, "claim the segment", name)
    return True


def claimed(fd: int, byte: int, name: str) -> bool:
    """Tell whether another process has claimed that byte of the object. Claims nothing."""
    return check(lib.shma_segment_claimed(fd, byte), "look at the claims", name) > 0


def open_elsewhere(fd: int, owner: int) -> int:
    """Tell whether that user's object is open elsewhere (see objects.h): 1, 0 or -errno."""
    code: int = lib.shma_lease_open_elsewhere(fd, owner)
    return code


def sysv_create(key: int, size: int, mode: int, *, reserve: bool) -> int:
    """Make a System V segment. Returns its id or -errno."""
    code: int = lib.shma_sysv_create(key, size, mode, reserve)
    return code


def sysv_find(key: int) -> int:
    """Return the id of the segment with that key, or -errno."""
    code: int = lib.shma_sysv_find(key)
    return code


def sysv_stat(segment: int) -> tuple[int, SysvFacts]:
    """Return 0 or -errno, and the kernel's facts of the segment with that id."""
    facts = ffi.new("shma_sysv_facts *")
    return lib.shma_sysv_stat(segment, facts), facts


def sysv_give(segment: int, uid: int, gid: int) -> int:
    """Give a segment to that user and group (-1: as they are): 0 or -errno."""
    code: int = lib.shma_sysv_give(segment, uid, gid)
    return code


def sysv_place(segment: int, address: Address, *, writable: bool) -> int:
    """Attach a whole segment in place of the private range at `address`: 0 or -errno."""
    code: int = lib.shma_sysv_place(segment, address, writable)
    return code


def sysv_read(segment: int, offset: int, size: int) -> tuple[int, bytes]:
    """Return 0 or -errno, and `size` bytes of a segment."""
    target = ffi.new("uint8_t[]", size)
    return lib.shma_sysv_read(segment, offset, target, size), bytes(ffi.buffer(target))


def sysv_remove(segment: int) -> int:
    """Remove a segment: 0 or -errno."""
    code: int = lib.shma_sysv_remove(segment)
    return code


def end_with_parent(signal: int) -> None:
    """Ask for that signal when the thread that forked this process ends."""
    check(lib.shma_process_end_with_parent(signal), "ask for a signal when the parent ends", "")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has ended."""
    check(lib.shma_process_adopt_orphans(), "adopt orphans", "")


def address_of(memory: mmap) -> Address:
    """Return the address of a mapping. It keeps the mapping alive."""
    return ffi.from_buffer(memory)


def place(address: Address, size: int, fd: int, *, writable: bool, name: str) -> None:
    """Map the first `size` bytes of `fd` in place of the private range at `address`."""
    check(lib.shma_mapping_place(address, size, fd, writable), f"map {size} bytes", name)


def discard(address: Address, size: int, *, writable: bool, name: str) -> None:
    """Replace the mapping at `address` by private zeros."""
    check(lib.shma_mapping_discard(address, size, writable), f"unmap {size} bytes", name)


def lock_memory(address: Address, size: int) -> int:
    """Keep the range in memory once touched (mlock2). Return 0 or -errno."""
    code: int = lib.shma_mapping_lock(address, size)
    return code


def control_at(address: Address, offset: int) -> Control:
    """Return the control page at `offset` bytes; does not keep the range mapped."""
    return ffi.cast("shma_control *", ffi.cast("char *", address) + offset)


def control_from_bytes(page: bytes) -> Control:
    """Return a control page's fields, as attributes of a private copy."""
    control = ffi.new("shma_control *")
    ffi.memmove(control, page, CONTROL_SIZE)
    return control


def control_fields(page: bytes) -> dict[str, int | bytes | tuple[int, ...]]:
    """Return every field of a private copy of a control page, by its name in control.h.

    The padding is left out.
    """
    control = control_from_bytes(page)
    names = [name for name, _ in ffi.typeof("shma_control").fields if not name.startswith("pad")]
    return {name: _plain(getattr(control, name)) for name in names}


def _plain(value: Any) -> int | bytes | tuple[int, ...]:
    if isinstance(value, int):
        return value
    return bytes(value) if ffi.typeof(value).item.cname == "uint8_t" else tuple(value)


def control_to_bytes(**fields: int | bytes | tuple[int, ...]) -> bytes:
    """Return a control page with these fields, and zero in all others."""
    return bytes(ffi.buffer(ffi.new("shma_control *", fields)))


def identity_take(fd: int, identity: Identity | None, name: str) -> Identity:
    """Mark a description that was just opened, so that it can be recognised."""
    taken = identity or ffi.new("shma_identity *")
    check(lib.shma_identity_take(fd, taken), "mark the descriptor", name)
    return taken


def identity_is(fd: int, identity: Identity) -> bool:
    """Tell whether that descriptor is still the one that was marked."""
    return bool(lib.shma_identity_check(fd, identity, 0) == 0)


def snapshot_of(
    control: Control, fd: int, identity: Identity, size: int, *, linked: bool, sysv: int
) -> Snapshot:
    """Return the argument of `snapshot_before` and `snapshot_after`.

    It keeps neither the range mapped nor `identity` alive.
    """
    fields = {
        "control": control,
        "fd": fd,
        "identity": identity,
        "size": size,
        "linked": linked,
        "sysv": sysv,
    }
    return ffi.new("shma_snapshot *", fields)


def lock_open(
    path: str,
    *,
    writable: bool,
    identity: tuple[int, int],
    size: int,
    address: Address,
    control: Control | None,
    owner: tuple[int, int, int],
    home: str,
    name: str,
) -> tuple[LockHandle, LockCloser]:
    """Open a new lock on the object that `path` leads to.

    Args:
        path: the path to open.
        writable: open for reading and writing, or for reading alone.
        identity: st_dev and st_ino of the object; ESTALE if `path` leads to another one.
        size: bytes that it must have at every grant.
        address: the mapping that has `control`, kept until the lock is closed.
        control: the control page to mark, if any.
        owner: our pid, start time and pid namespace.
        home: the path to open it again, if the program has closed its descriptor.
        name: the region's name, for errors.

    Returns:
        The lock, and an object that closes it when its last reference dies. The lock itself
        stays valid memory as long as it is referenced: a closed one returns FORKED.
    """
    lock = ffi.new("shma_lock *", {"fd": -1, "sysv": -1})
    lock.home = kept = ffi.new("char[]", os.fsencode(home))
    # made before the C side opens it: from then on a signal may raise an exception at any step
    closer = ffi.gc(lock, partial(_close_lock, (address, kept)))
    code = lib.shma_lock_open(
        lock, path.encode(), writable, *identity, size, control or ffi.NULL, *owner
    )
    check(code, f"open {path} again for a lock", name)
    return lock, closer


def _close_lock(kept: object, lock: LockHandle, close: Any = lib.shma_lock_close) -> None:
    if close(lock) < 0:
        _stuck.append((kept, lock))
    else:
        lock.home = ffi.NULL


#: Locks whose waiting thread cannot be stopped. They stay: a leak is better than a crash.
_stuck: list[tuple[object, LockHandle]] = []


def lock_commit(lock: LockHandle, data: memoryview, copy: bytearray) -> int:
    """Write `copy` over the writable `data`, of the same size. Return 0 or -errno."""
    target = ffi.from_buffer("uint8_t[]", data, require_writable=True)
    code: int = lib.shma_lock_commit(lock, target, ffi.from_buffer("uint8_t[]", copy), len(copy))
    return code


def waiter_fd(lock: LockHandle, name: str) -> int:
    """Return the eventfd that reports the end of a request of `lock`."""
    return check(lib.shma_waiter_fd(lock), "make an eventfd", name)


def watch_open() -> tuple[int, WatchHandle, WatchCloser]:
    """Return 0 or -errno, a new inotify instance, and its closer.

    The closer closes it when the closer's last reference dies.
    """
    watch = ffi.new("shma_watch *", {"fd": -1})
    closer = ffi.gc(watch, lib.shma_watch_close)  # before the C side opens it: as in lock_open
    return lib.shma_watch_open(watch), watch, closer


def watch_add(watch: WatchHandle, path: str) -> int:
    """Watch the object at `path`. Return the watch descriptor or -errno."""
    code: int = lib.shma_watch_add(watch, path.encode())
    return code


def watch_add_names(watch: WatchHandle, path: str) -> int:
    """Watch the directory at `path` for new names. Return the watch descriptor or -errno."""
    code: int = lib.shma_watch_add_names(watch, path.encode())
    return code


def watch_read(watch: WatchHandle) -> list[int]:
    """Return the watch descriptors of some pending events; -1 among them: some were lost."""
    return list(watch.found[0 : max(0, lib.shma_watch_read(watch))])
