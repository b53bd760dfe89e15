"""Fixtures for tests of programs that share memory, and a check that a test leaves nothing behind.

pytest loads this module by itself where the package is installed. It changes nothing until a
test asks for a fixture, or ``--shm-leaks=error`` or ``--shm-leaks=warn`` turns the check on; and
only then it imports what opens regions. See docs/testing.md.
"""

import gc
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest

if TYPE_CHECKING:
    from ._lock.recovery import OnOwnerDeath
    from ._memory.elements import DTypeLike
    from ._memory.layouts import Layout
    from ._region import Region
    from ._watch.inspection import RegionInfo

__all__ = ["RegionFactory", "ShmLeakWarning"]

SHM_DIR = "/dev/shm"
PREFIX = "shm_async.pytest."  # of the names of all fixtures, for `prune`
LINGER = 2.0  # seconds; a waiting thread without work ends by itself after a tenth of one

Mode: TypeAlias = Literal["error", "warn", "off"]
MODES = ("error", "warn", "off")


# ---- options ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("shm_async").addoption(
        "--shm-leaks",
        choices=MODES,
        default="off",
        help="what to do about a test that leaves a region, descriptor, lock or waiting thread "
        "of shm_async: an error, a warning, or nothing (default)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "shm_leaks(mode): 'error', 'warn' or 'off' instead of --shm-leaks, if that is on"
    )
    mode: Mode = config.getoption("shm_leaks")
    if mode != "off":
        config.pluginmanager.register(_LeakCheck(mode), "shm_async leak check")


# ---- fixtures --------------------------------------------------------------------------


class RegionFactory:
    """Makes regions for one test, and removes them at its end: the fixture `shm_region_factory`.

    Each has a name that no other test has, whatever process, pytest-xdist worker or run it is
    in. A forked child may go on using the regions, and make more; only the process that runs
    the test removes them.
    """

    def __init__(self, title: str = "test") -> None:
        """Make nothing yet. `title` becomes part of the names, so that people can tell them."""
        words = re.sub(r"[^\w.-]+", "-", title, flags=re.ASCII)[:80]
        self._prefix = f"{PREFIX}{secrets.token_hex(6)}.{words}."
        self._count = 0
        self._maker = os.getpid()
        self._regions: list[Region] = []

    def name(self) -> str:
        """A fresh name, for code that creates its region itself.

        The region is removed at the end of the test, whichever process created it. Never
        blocks; raises nothing.
        """
        self._count += 1
        return f"{self._prefix}{self._count}"

    def __call__(
        self,
        length: int | None = None,
        *,
        dtype: "DTypeLike" = "uint8",
        shape: Sequence[int] | None = None,
        layout: "Layout" = "managed",
        reserve: bool = True,
        on_owner_death: "OnOwnerDeath" = "raise",
        follow: bool = False,
    ) -> "Region":
        """Create a region with a fresh name. Blocks while the kernel reserves the memory.

        Arguments and errors are those of `Region.create`.
        """
        from ._region import Region  # not before a test needs one

        region = Region.create(
            self.name(),
            length,
            dtype=dtype,
            shape=shape,
            layout=layout,
            reserve=reserve,
            on_owner_death=on_owner_death,
            follow=follow,
        )
        self._regions.append(region)
        return region

    def close(self) -> None:
        """Close and remove all of them. The fixture does it at the end of the test.

        Does nothing in a forked child. Never blocks.

        Raises:
            PermissionError: one of them belongs to another user by now.
        """
        if self._maker != os.getpid():
            return
        for region in self._regions:
            region.close()
            with suppress(FileNotFoundError):
                region.unlink()  # tells those who are attached
        self._regions.clear()
        for name in _names():
            if name.startswith(self._prefix):
                with suppress(FileNotFoundError):  # another process was first
                    os.unlink(os.path.join(SHM_DIR, name))


@pytest.fixture
def shm_region_factory(request: pytest.FixtureRequest) -> Iterator[RegionFactory]:
    """Call it with a length and a dtype: it creates a region that goes at the end of the test."""
    factory = RegionFactory(request.node.name)
    yield factory
    factory.close()


@pytest.fixture
def shm_region(shm_region_factory: RegionFactory) -> "Region":
    """A region of eight uint64, all zero, with a unique name. Removed at the end of the test."""
    return shm_region_factory(8, dtype="uint64")


# ---- the check -------------------------------------------------------------------------


class ShmLeakWarning(pytest.PytestWarning):
    """A test left something of shm_async behind; with ``--shm-leaks=warn``."""


class _LeakCheck:
    """Registered as a plugin of its own, so that there is no fixture while the check is off."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    @pytest.fixture(autouse=True)
    def _shm_leaks(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Compare what is there after the test, and after its other fixtures, with before."""
        mode = self._mode_of(request)
        if mode == "off":
            yield
            return
        before = _look()
        yield
        if leaks := _settled_leaks(before):
            text = "the test left behind:\n" + "\n".join(f"  {leak}" for leak in leaks)
            if mode == "error":
                pytest.fail(text, pytrace=False)
            request.node.warn(ShmLeakWarning(text))

    def _mode_of(self, request: pytest.FixtureRequest) -> Mode:
        marker = request.node.get_closest_marker("shm_leaks")
        if marker is None:
            return self._mode
        if len(marker.args) != 1 or marker.args[0] not in MODES:
            expected = ", ".join(map(repr, MODES))
            pytest.fail(f"@pytest.mark.shm_leaks takes one of {expected}", pytrace=False)
        mode: Mode = marker.args[0]
        return mode


Inode: TypeAlias = tuple[int, int]  # device, inode


@dataclass(frozen=True, slots=True)
class _Seen:
    """What there is at one moment."""

    names: frozenset[str]  # in /dev/shm, of the whole host
    segments: dict[int, int]  # System V segments that this process created: shmid -> key
    open: frozenset[Inode]  # objects of /dev/shm that this process has open
    locks: frozenset[tuple[Inode, str]]  # of those: what this process holds
    threads: frozenset[str]  # that wait for a lock


def _look() -> _Seen:
    found = _open_objects()
    return _Seen(
        names=frozenset(_names()),
        segments=_own_segments(),
        open=found,
        locks=_own_locks(found) if found else frozenset(),  # who has a lock has it open
        threads=frozenset(_waiting_threads()),
    )


def _settled_leaks(before: _Seen) -> list[str]:
    """What is left when garbage is collected, and idle threads have had time to end."""
    leaks = _leaks(before, _look())
    if not leaks:
        return []
    gc.collect()
    deadline = time.monotonic() + LINGER
    while (now := _look()).threads - before.threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return _leaks(before, now)


def _leaks(before: _Seen, now: _Seen) -> list[str]:
    """Each with what to do about it."""
    left = [
        f"region {info.name!r}, which still exists: unlink() it, or let the fixture "
        "shm_region_factory make it"
        for info in _own_regions(now.names - before.names)
    ]
    left += [
        f"the System V segment of key {key:#x} (shmid {shmid}): unlink() its region"
        for shmid, key in now.segments.items()
        if shmid not in before.segments
    ]
    left += [
        f"an open descriptor of {_title(inode)}: close() the region, and drop its holds"
        for inode in now.open - before.open
    ]
    left += [
        f"a {kind} lock of {_title(inode)}, which this process still holds: release() it"
        for inode, kind in now.locks - before.locks
    ]
    if threads := len(now.threads - before.threads):
        left.append(f"{threads} waiting thread(s): a task or thread still waits for a lock")
    return sorted(left)


def _title(inode: Inode) -> str:
    """The name that leads to an object; the kernel's own for it is that of its creation."""
    for name in _names():
        with suppress(OSError):  # it has gone
            status = os.stat(os.path.join(SHM_DIR, name))
            if (status.st_dev, status.st_ino) == inode:
                return f"region {name!r}"
    return "a region that was unlinked"


def _names() -> list[str]:
    try:
        return os.listdir(SHM_DIR)
    except FileNotFoundError:
        return []


def _own_regions(names: frozenset[str]) -> Iterator["RegionInfo"]:
    """Those of the names whose regions this process, or a child of it that still runs, created.

    Other programs, and other pytest-xdist workers, make regions at the same time.
    """
    if not names:
        return
    from ._memory.control import start_of
    from ._watch.inspection import inspect

    for info in inspect():
        if info.linked and info.key is None and info.control is not None and info.name in names:
            pid = info.control["creator_pid"]
            began = info.control["creator_start"]
            if isinstance(pid, int) and start_of(pid) == began and _is_ours(pid):
                yield info


def _is_ours(pid: int) -> bool:
    """Whether it is this process, or a living descendant of it."""
    try:
        while pid > 1 and pid != os.getpid():
            with open(f"/proc/{pid}/stat", "rb") as stat:
                pid = int(stat.read().rpartition(b")")[2].split()[1])  # its parent
    except OSError:  # it has ended
        return False
    return pid == os.getpid()


def _own_segments() -> dict[int, int]:
    try:
        with open("/proc/sysvipc/shm") as table:
            rows = [line.split() for line in table][1:]
    except OSError:  # a kernel without System V
        return {}
    own = str(os.getpid())
    return {int(row[1]): int(row[0]) & 0xFFFFFFFF for row in rows if row[4] == own}


def _open_objects() -> frozenset[Inode]:
    """Objects, not descriptors: a region that is open may open more of them for its locks."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that lists the directory
            if os.readlink(f"/proc/self/fd/{fd}").startswith(SHM_DIR + "/"):
                status = os.stat(f"/proc/self/fd/{fd}")
                found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def _own_locks(found: frozenset[Inode]) -> frozenset[tuple[Inode, str]]:
    from ._memory.proclocks import rows_of_host

    places = {(os.major(device), os.minor(device), inode) for device, inode in found}
    try:
        rows = rows_of_host("")
    except OSError:  # the kernel does not tell
        return frozenset()
    return frozenset(
        ((os.makedev(*row.object[:2]), row.object[2]), row.kind)
        for row in rows
        if row.flock and not row.waiting and row.pid == os.getpid() and row.object in places
    )


def _waiting_threads() -> Iterator[str]:
    """The threads in C that wait for a lock on behalf of an event loop."""
    for task in os.listdir("/proc/self/task"):
        # suppressed: it has ended
        with suppress(OSError), open(f"/proc/self/task/{task}/comm") as comm:
            if comm.read().strip() == "shm_async":
                yield task
