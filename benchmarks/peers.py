"""The locks that are measured, brought to one shape: ``async with`` and ``with``.

Each constructor takes a name of the `place` and returns one owner's handle on the lock:
with a descriptor of its own, where that matters. A peer that has no read lock has None
in `read`, and READERS says why.

What a peer lacks is added in the plainest way that its users have: a blocking acquire
runs in `anyio.to_thread.run_sync`, and so does a release that closes files; a plain
unlock, which never blocks, is called in place.
"""

import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiorwlock
import fasteners
import filelock
import portalocker
from anyio import CapacityLimiter
from anyio.to_thread import run_sync

import shm_async
from benchmarks.place import lock_file

FOR_EVER = 1e6  # seconds

AsyncLock = Callable[[], Any]  # what `async with` takes: no type says just that
SyncLock = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class AsyncHandle:
    """One owner's ways to lock in an event loop."""

    write: AsyncLock
    read: AsyncLock | None = None
    close: Callable[[], object] = int


@dataclass(frozen=True, slots=True)
class SyncHandle:
    """One owner's ways to lock in a thread."""

    write: SyncLock
    read: SyncLock | None = None
    close: Callable[[], object] = int


class Pair:
    """An acquire and a release as an async context manager."""

    __slots__ = ("acquire", "release")

    def __init__(
        self, acquire: Callable[[], Awaitable[object]], release: Callable[[], Awaitable[object]]
    ) -> None:
        self.acquire = acquire
        self.release = release

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        await self.release()


# ---- ours ------------------------------------------------------------------------


def ours(name: str) -> AsyncHandle:
    region = shm_async.Region.open(name, 64)
    return AsyncHandle(region.write_lock, region.read_lock, region.close)


def ours_sync(name: str) -> SyncHandle:
    region = shm_async.Region.open(name, 64)
    return SyncHandle(region.write_lock, region.read_lock, region.close)


# ---- flock -----------------------------------------------------------------------


def open_lock_file(name: str) -> int:
    return os.open(lock_file(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def flock_sync(name: str) -> SyncHandle:
    """The system call itself, blocking the thread."""
    fd = open_lock_file(name)

    def locked(mode: int) -> SyncLock:
        @contextmanager
        def lock() -> Any:
            fcntl.flock(fd, mode)
            try:
                yield
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)

        return lock

    return SyncHandle(locked(fcntl.LOCK_EX), locked(fcntl.LOCK_SH), lambda: os.close(fd))


def naive(name: str, limiter: CapacityLimiter | None = None) -> AsyncHandle:
    """What one writes without thinking: flock in a worker thread, 40 of them at most."""
    fd = open_lock_file(name)

    async def acquire(mode: int) -> None:
        await run_sync(fcntl.flock, fd, mode, limiter=limiter)

    async def release() -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    return AsyncHandle(
        lambda: Pair(lambda: acquire(fcntl.LOCK_EX), release),
        lambda: Pair(lambda: acquire(fcntl.LOCK_SH), release),
        lambda: os.close(fd),
    )


def naive_unlimited(name: str) -> AsyncHandle:
    """The same with a thread for every waiter."""
    return naive(name, CapacityLimiter(1))


# ---- filelock --------------------------------------------------------------------


def async_file_lock(name: str) -> AsyncHandle:
    lock = filelock.AsyncFileLock(lock_file(name))
    return AsyncHandle(lambda: lock)


def file_lock_sync(name: str) -> SyncHandle:
    lock = filelock.FileLock(lock_file(name))
    return SyncHandle(lambda: lock)


def async_read_write_lock(name: str) -> AsyncHandle:
    lock = filelock.AsyncReadWriteLock(lock_file(name), is_singleton=False)
    return AsyncHandle(lock.write_lock, lock.read_lock)


def read_write_lock_sync(name: str) -> SyncHandle:
    lock = filelock.ReadWriteLock(lock_file(name), is_singleton=False)
    return SyncHandle(lock.write_lock, lock.read_lock, lock.close)


# ---- portalocker -----------------------------------------------------------------


def portalocker_sync(name: str) -> SyncHandle:
    path = lock_file(name)
    shared = portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING
    write = portalocker.Lock(path, timeout=FOR_EVER)
    read = portalocker.Lock(path, timeout=FOR_EVER, flags=shared)
    return SyncHandle(lambda: write, lambda: read)


def portalocker_async(name: str) -> AsyncHandle:
    return _in_threads(portalocker_sync(name))


# ---- fasteners -------------------------------------------------------------------


def fasteners_sync(name: str) -> SyncHandle:
    lock = fasteners.InterProcessReaderWriterLock(lock_file(name))
    return SyncHandle(lock.write_lock, lock.read_lock)


def fasteners_async(name: str) -> AsyncHandle:
    return _in_threads(fasteners_sync(name))


# ---- aiorwlock -------------------------------------------------------------------


def aiorwlock_(name: str) -> AsyncHandle:
    """In-process only. Must be made in the event loop that uses it."""
    lock = aiorwlock.RWLock(fast=True)
    return AsyncHandle(lambda: lock.writer, lambda: lock.reader)


# ---- a blocking lock in an event loop ----------------------------------------------


class InThread:
    """A context manager that is entered and left in worker threads."""

    __slots__ = ("entered", "lock")

    def __init__(self, lock: SyncLock) -> None:
        self.lock = lock

    async def __aenter__(self) -> None:
        self.entered = self.lock()
        await run_sync(self.entered.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await run_sync(self.entered.__exit__, None, None, None)


def _in_threads(handle: SyncHandle) -> AsyncHandle:
    read = handle.read
    assert read is not None
    return AsyncHandle(lambda: InThread(handle.write), lambda: InThread(read), handle.close)


# ---- names -----------------------------------------------------------------------

NAIVE = "to_thread(flock)"
NAIVE_UNLIMITED = "to_thread(flock), thread each"
ASYNC_FILE_LOCK = "filelock AsyncFileLock"
ASYNC_RW_LOCK = "filelock AsyncReadWriteLock"
PORTALOCKER = "portalocker"
FASTENERS = "fasteners"
AIORWLOCK = "aiorwlock (in-process only)"

ASYNC: dict[str, Callable[[str], AsyncHandle]] = {
    NAIVE: naive,
    PORTALOCKER: portalocker_async,
    FASTENERS: fasteners_async,
    ASYNC_FILE_LOCK: async_file_lock,
    ASYNC_RW_LOCK: async_read_write_lock,
    AIORWLOCK: aiorwlock_,
}

SYNC: dict[str, Callable[[str], SyncHandle]] = {
    "fcntl.flock, context manager": flock_sync,
    PORTALOCKER: portalocker_sync,
    FASTENERS: fasteners_sync,
    "filelock FileLock": file_lock_sync,
    "filelock ReadWriteLock": read_write_lock_sync,
}
