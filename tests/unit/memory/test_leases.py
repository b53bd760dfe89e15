"""A lease keeps others from opening an object: we wait for those of others, and hardly take any."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from privileges import needs
from waits import wait_until

from shm_async import Region, _native, prune
from shm_async._memory import leases, names, presence

BREAK_TIME = Path(leases.BREAK_TIME)

HOLDER = """
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("has it", flush=True)
signal.sigwait([signal.SIGURG])  # somebody wants to open it
print("told", flush=True)
sys.stdin.readline()
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
"""


@contextmanager
def leased(path: str) -> Iterator["subprocess.Popen[str]"]:
    """Another program has a lease on the object, until it is sent a line."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        try:
            yield process
        finally:
            process.kill()


def _an_object(name: str, key: int) -> str:
    Region.create(name, 4).close()
    return f"/dev/shm/{name}"


def _a_companion(name: str, key: int) -> str:
    Region.create(key, 4).close()
    return names.path_of(names.companion_of(key))


OPENS: dict[str, tuple[Callable[[str, int], str], Callable[[str, int], Region]]] = {
    "attach": (_an_object, lambda name, key: Region.attach(name)),
    "readonly": (_an_object, lambda name, key: Region.attach(name, readonly=True)),
    "open": (_an_object, lambda name, key: Region.open(name, 4)),
    "System V": (_a_companion, lambda name, key: Region.attach(key)),
    "System V, readonly": (_a_companion, lambda name, key: Region.attach(key, readonly=True)),
}


@pytest.fixture
def key(sysv_key: int) -> Iterator[int]:
    yield sysv_key
    prune(names.name_of(sysv_key), dry_run=False)


@pytest.mark.parametrize("way", OPENS)
def test_an_open_waits_for_a_lease_of_somebody_else(name: str, key: int, way: str, monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 60)
    make, open_it = OPENS[way]
    opened: list[Region] = []
    with leased(make(name, key)) as holder:
        thread = Thread(target=lambda: opened.append(open_it(name, key)))
        thread.start()
        assert holder.stdout is not None
        assert holder.stdout.readline() == "told\n"
        assert not opened
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        thread.join(40)
    assert len(opened) == 1
    with opened[0] as region, region.read_lock():
        pass


@pytest.mark.parametrize("way", OPENS)
def test_a_lease_that_lasts_is_an_error_that_says_so(name: str, key: int, way: str, monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    make, open_it = OPENS[way]
    with leased(make(name, key)), pytest.raises(OSError, match=r"lease on it for 0\.05 s") as it:
        open_it(name, key)
    assert it.value.errno == errno.EBUSY
    assert it.value.filename == (names.name_of(key) if way.startswith("System") else name)
    assert str(BREAK_TIME) in str(it.value)


@pytest.mark.parametrize("to_look", [False, True])
def test_a_lock_and_a_lookout_wait_for_a_lease_too(region: Region, monkeypatch, to_look: bool):
    lock_open, refusals = _native.lock_open, [errno.EAGAIN] * 3
    assert region._table.opener is not None
    region._table.opener.ahead.clear()  # what root opens beforehand

    def refuse_first(*arguments: object, **options: object) -> object:
        if refusals:
            raise OSError(refusals.pop(), "leased", region.name)
        return lock_open(*arguments, **options)

    monkeypatch.setattr(_native, "lock_open", refuse_first)
    lock, closer = region._table.opener.open(to_look=to_look)
    assert lock.fd >= 0
    assert not refusals
    del closer


@contextmanager
def break_time(seconds: int) -> Iterator[None]:
    before = BREAK_TIME.read_text()
    BREAK_TIME.write_text(str(seconds))
    try:
        yield
    finally:
        BREAK_TIME.write_text(before)


def attach_soon(name: str) -> Region:
    """Attach, as often as it takes; the kernel takes the lease away."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return Region.attach(name)
        except OSError as error:  # noqa: PERF203
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise


def _stop_with_a_lease(fd: int) -> bool:
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


@needs("the lease time")
def test_a_prune_that_is_stopped_with_its_lease_keeps_nobody_out_for_long(name: str, monkeypatch):
    """It loses the lease, and when it goes on it finds that somebody is there."""
    Region.create(name, 4).close()
    with break_time(1):
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                monkeypatch.setattr(leases, "is_open_elsewhere", _stop_with_a_lease)
                code = len(prune(name, dry_run=False))
            finally:
                os._exit(code)
        os.waitpid(pid, os.WUNTRACED)
        with attach_soon(name) as region:
            os.kill(pid, signal.SIGCONT)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert region.linked
    # the child is dead, but its mappings stay while another process reads which it has
    wait_until(lambda: prune(name, dry_run=False) == [name])


# ---- prune takes hardly any ------------------------------------------------------------


def test_a_look_takes_no_lease_and_claims_nothing(name: str, key: int, monkeypatch):
    Region.create(name, 4).close()
    Region.create(key, 4).close()
    companion = names.companion_of(key)
    claims: list[int] = []
    monkeypatch.setattr(_native, "open_elsewhere", lambda *_: pytest.fail("a lease"))
    monkeypatch.setattr(_native, "claim", lambda fd, byte, kind, name: claims.append(kind))
    assert prune(name) == [name]
    assert prune(names.name_of(key)) == [key]
    assert prune(companion) == []
    assert set(claims) <= {presence.NOBODY}


def test_a_removal_takes_no_lease_of_what_somebody_uses(name: str, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(_native, "open_elsewhere", lambda *_: asked.append(1) or 1)
    with Region.create(name, 4):
        assert prune(name, dry_run=False) == []
        assert not asked
    assert prune(name, dry_run=False) == []
    assert asked


def test_a_look_finds_a_program_that_knows_nothing_of_us(name: str):
    Region.create(name, 4).close()
    fd = os.open(f"/dev/shm/{name}", os.O_RDONLY)
    assert prune(name) == []
    os.close(fd)
    assert prune(name) == [name]


@pytest.mark.timeout(30)  # less than the kernel lets an open wait for the lease
def test_an_object_that_is_leased_is_nobodys_business(name: str, monkeypatch):
    Region.create(name, 4).close()
    monkeypatch.setattr(leases, "patiently", lambda *_: pytest.fail("it waits for the lease"))
    with leased(f"/dev/shm/{name}"):
        assert prune(name) == prune(name, dry_run=False) == []


# ---- other users' objects --------------------------------------------------------------

ANOTHER_USERS = """
import ctypes, os, sys, threading
from shm_async import Region, prune
name = sys.argv[1]
def status():
    lines = [line for line in open("/proc/thread-self/status") if line[:3] in ("Cap", "Uid", "Gid")]
    return [*lines, ctypes.CDLL(None).prctl(3)]  # PR_GET_DUMPABLE
before = status()
assert not int(before[4].split()[1], 16) & 1 << 28, before  # CAP_LEASE
fd = os.open(f"/dev/shm/{name}", os.O_RDONLY) if sys.argv[2] == "open" else None
print(prune(name), prune(name, dry_run=False))
assert status() == before
"""


def prune_without(capabilities: str, name: str, kept: str) -> str:
    done = subprocess.run(
        [
            "setpriv",
            "--bounding-set",
            capabilities,
            sys.executable,
            "-c",
            ANOTHER_USERS,
            name,
            kept,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@needs("another user", "others' files", "fewer capabilities")
def test_root_without_cap_lease_removes_what_another_user_left(name: str):
    Region.create(name, 4).close()
    os.chown(f"/dev/shm/{name}", 65533, 65533)
    assert prune_without("-lease", name, "open") == "[] []"
    assert prune_without("-lease", name, "") == f"['{name}'] ['{name}']"
    assert not os.path.exists(f"/dev/shm/{name}")


@needs("another user", "others' files", "fewer capabilities")
def test_what_the_kernel_does_not_prove_stays(name: str):
    Region.create(name, 4).close()
    os.chown(f"/dev/shm/{name}", 65533, 65533)
    assert prune_without("-lease,-setuid", name, "") == f"['{name}'] []"
    assert os.path.exists(f"/dev/shm/{name}")
