"""What tests may do here: each asks for the very thing that it needs, not for root.

Root in a container lacks most of root's capabilities, and some users have a few of them. So
each thing is tried, once and in a process of its own, and the kernel answers.

    @needs("another user")
    def test_...

With TEST_PRIVILEGES=all a thing that cannot be done is an error: CI sets it where all can be done.
"""

import contextlib
import ctypes
import errno
import functools
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

SOMEBODY = 54321  # a user's number that no test uses
CLONE_NEWNS, CLONE_NEWPID, PRIVATE = 0x00020000, 0x20000000, 0x44000
CLONE_NEWNET = 0x40000000
SHM = "/dev/shm"


def _become_another_user() -> None:
    os.setgroups([])
    os.setgid(SOMEBODY)
    os.setuid(SOMEBODY)


def _give_a_file_away() -> None:
    with tempfile.NamedTemporaryFile(dir=SHM) as file:
        os.chown(file.name, SOMEBODY, SOMEBODY)


def _use_files_of_others() -> None:
    with tempfile.NamedTemporaryFile(dir=SHM) as file:
        os.chown(file.name, SOMEBODY, SOMEBODY)
        os.chmod(file.name, 0o600)
        os.close(os.open(file.name, os.O_RDWR))
        os.utime(file.name)


def _make_a_device() -> None:
    path = tempfile.mktemp(dir=SHM)
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.unlink(path)


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) or libc.mount(b"none", b"/", None, PRIVATE, None):
        raise OSError(ctypes.get_errno(), "cannot unshare")


def _lay_a_cable() -> None:
    """In a network namespace of its own, by the program that examples/two_hosts.py uses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot unshare")
    command = ["ip", "link", "add", "type", "veth"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise OSError(errno.EOPNOTSUPP, "no such links")


@contextlib.contextmanager
def limited_group(size: int) -> Iterator[str]:
    """A control group whose members may use `size` bytes of memory; gone in the end."""
    v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    parent = "/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory"
    group = tempfile.mkdtemp(prefix="shm-async-test-", dir=parent)
    try:
        with open(f"{group}/memory.{'max' if v2 else 'limit_in_bytes'}", "w") as file:
            file.write(str(size))
        yield group
    finally:
        os.rmdir(group)


def _limit_memory() -> None:
    with limited_group(1 << 26):
        pass


def _drop_a_capability() -> None:
    program = ["setpriv", "--bounding-set", "-lease", "true"]
    if subprocess.run(program, stderr=subprocess.DEVNULL, check=False).returncode:
        raise PermissionError(errno.EPERM, "setpriv may not")


def _change_the_lease_time() -> None:
    with open("/proc/sys/fs/lease-break-time", "r+") as file:
        seconds = file.read()
        file.seek(0)
        file.write(seconds)


#: What a test may need, and how it is tried.
TRIALS: dict[str, Callable[[], None]] = {
    "another user": _become_another_user,  # CAP_SETUID, CAP_SETGID
    "giving files away": _give_a_file_away,  # CAP_CHOWN
    "others' files": _use_files_of_others,  # CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_CHOWN
    "another root directory": functools.partial(os.chroot, "/"),  # CAP_SYS_CHROOT
    "a device": _make_a_device,  # CAP_MKNOD
    "a control group": _limit_memory,  # the memory controller, writable
    "fewer capabilities": _drop_a_capability,  # CAP_SETPCAP
    "the lease time": _change_the_lease_time,  # a sysctl of the host
    "a mount": functools.partial(_unshare, CLONE_NEWNS),  # CAP_SYS_ADMIN
    "network namespaces": _lay_a_cable,  # the same, and the program ip
    "a pid namespace": functools.partial(_unshare, CLONE_NEWNS | CLONE_NEWPID),  # the same
}


@functools.cache
def can(thing: str) -> str | None:
    """Try it: None, or what the kernel says against it."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            TRIALS[thing]()
            code = 0
        except OSError as error:
            code = error.errno
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return None
    return os.strerror(code) if code in errno.errorcode else f"the trial ended with {code}"


def needs(*things: str) -> pytest.MarkDecorator:
    """Skip the test where one of `things` cannot be done, and say which."""
    missing = [f"{thing} ({why})" for thing in things if (why := can(thing))]
    if missing and os.environ.get("TEST_PRIVILEGES") == "all":
        raise RuntimeError(f"TEST_PRIVILEGES=all, but this process cannot have {missing}")
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def needs_shm(size: int) -> pytest.MarkDecorator:
    """Skip the test where /dev/shm has fewer than `size` bytes left, as in a container."""
    facts = os.statvfs(SHM)
    free = facts.f_bavail * facts.f_frsize
    if free < size and os.environ.get("TEST_PRIVILEGES") == "all":
        raise RuntimeError(f"TEST_PRIVILEGES=all, but {SHM} has {free} bytes free, not {size}")
    return pytest.mark.skipif(
        free < size, reason=f"needs {size >> 20} MiB of /dev/shm (docker run --shm-size)"
    )
