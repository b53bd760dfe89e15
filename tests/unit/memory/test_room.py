import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from privileges import limited_group, needs

from shm_async import Region
from shm_async._memory import room
from shm_async._memory.room import OFF_MAX, Host

MB = 1 << 20
NONE_V1 = 9223372036854771712  # what version 1 says for "no limit"


class FakeHost:
    """The files of a kernel: 1 GB of memory, no swap, and control groups as a test makes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "proc/self").mkdir(parents=True)
        self.say("proc/meminfo", "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\nSwapFree: 0 kB\n")
        self.host = Host(shm=str(path), proc=str(path / "proc"), root=str(path))
        self.mounts: list[str] = []

    def say(self, file: str, text: str) -> None:
        target = self.path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def mount(self, version: int, root: str = "/") -> None:
        sort = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        point = f"{self.path}/v{version}".replace(" ", "\\040")
        self.mounts += [f"31 23 0:28 {root} {point} rw,relatime shared:9 - {sort}"]
        self.say(
            "proc/self/mountinfo", "\n".join(["1 1 0:1 / / rw - ext4 /dev/sda rw", *self.mounts])
        )
        (self.path / f"v{version}").mkdir(exist_ok=True)

    def group(self, version: int, path: str, **files: object) -> None:
        for file, content in files.items():
            self.say(f"v{version}/{path}/{file.replace('__', '.')}", f"{content}\n")

    def member(self, *lines: str) -> None:
        self.say("proc/self/cgroup", "\n".join(lines) + "\n")

    def left(self) -> int:
        return self.host.memory().left


@pytest.fixture(params=["plain", "with blanks"])
def fake(tmp_path: Path, request: pytest.FixtureRequest) -> FakeHost:
    return FakeHost(tmp_path / request.param)


# ---- the machine -----------------------------------------------------------------------


def test_memory_and_swap_of_the_machine_count(fake: FakeHost):
    assert fake.left() == 1024 * MB
    fake.say("proc/meminfo", "MemAvailable: 1024 kB\nSwapFree: 1024 kB\nHugePages_Total: 0\n\nX\n")
    assert fake.left() == 2 * MB


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "MemAvailable: many kB\n", None])
def test_what_meminfo_does_not_say_is_no_limit(fake: FakeHost, text: str | None):
    if text is None:
        os.unlink(fake.path / "proc/meminfo")
    else:
        fake.say("proc/meminfo", text)
    assert fake.left() == OFF_MAX


# ---- control groups ----------------------------------------------------------------------


def test_a_limit_of_version_2_counts(fake: FakeHost):
    fake.mount(2)
    fake.member("0::/app")
    fake.group(2, "app", memory__max=64 * MB, memory__current=24 * MB)
    assert fake.left() == 40 * MB
    with pytest.raises(
        OSError, match=rf"{41 * MB} bytes wanted, {40 * MB} bytes .*{64 * MB} b"
    ) as it:
        room.check("x", 41 * MB, reserve=True, host=fake.host)
    assert (it.value.errno, it.value.filename) == (errno.ENOMEM, "x")
    assert "memory.max" in str(it.value)
    room.check_memory("x", 40 * MB, reserve=True, host=fake.host)
    room.check_memory("x", 41 * MB, reserve=False, host=fake.host)


def test_a_limit_of_version_1_counts(fake: FakeHost):
    fake.mount(1)
    fake.member("5:cpu,cpuacct:/elsewhere", "4:memory:/app")
    fake.group(1, "app", memory__limit_in_bytes=64 * MB, memory__usage_in_bytes=24 * MB)
    assert fake.left() == 40 * MB


def test_the_tightest_of_nested_groups_counts(fake: FakeHost):
    fake.mount(2)
    fake.member("0::/slice/pod/app")
    fake.group(2, "slice", memory__max=500 * MB, memory__current=100 * MB)
    fake.group(2, "slice/pod", memory__max=200 * MB, memory__current=90 * MB)
    fake.group(2, "slice/pod/app", memory__max="max", memory__current=5 * MB)
    assert fake.left() == 110 * MB


def test_both_versions_at_once_count(fake: FakeHost):
    fake.mount(2)
    fake.mount(1)
    fake.member("4:memory:/app", "0::/")
    fake.group(1, "app", memory__limit_in_bytes=64 * MB, memory__usage_in_bytes=0)
    assert fake.left() == 64 * MB


@pytest.mark.parametrize("path", ["/docker/abc", "/../outside", "/", "/docker/abcdef"])
def test_a_container_sees_its_own_group_as_the_topmost(fake: FakeHost, path: str):
    """With a namespace for control groups or without one, and where the path makes no sense."""
    fake.mount(2, root="/docker/abc")
    fake.member(f"0::{path}")
    fake.group(2, ".", memory__max=64 * MB, memory__current=0)
    assert fake.left() == 64 * MB


def test_a_group_inside_a_container_is_found_below_its_root(fake: FakeHost):
    fake.mount(2, root="/docker/abc")
    fake.member("0::/docker/abc/worker")
    fake.group(2, "worker", memory__max=32 * MB, memory__current=0)
    fake.group(2, ".", memory__max=64 * MB, memory__current=0)
    assert fake.left() == 32 * MB


def test_no_limit_is_no_limit(fake: FakeHost):
    fake.mount(2)
    fake.mount(1)
    fake.member("4:memory:/app", "0::/app", "nonsense")
    fake.group(2, "app", memory__max="max", memory__current=5 * MB)
    fake.group(1, "app", memory__limit_in_bytes=NONE_V1, memory__usage_in_bytes=5 * MB)
    assert fake.left() == 1024 * MB


def test_memory_high_kills_nobody(fake: FakeHost):
    fake.mount(2)
    fake.member("0::/app")
    fake.group(2, "app", memory__high=MB, memory__max="max", memory__current=5 * MB)
    assert fake.left() == 1024 * MB


def test_the_cache_of_files_is_dropped_before_anybody_is_killed(fake: FakeHost):
    fake.mount(2)
    fake.mount(1)
    stat = (
        f"anon {MB}\nfile {60 * MB}\nshmem {MB}\ninactive_file {30 * MB}\nactive_file {20 * MB}\n"
    )
    fake.member("0::/app")
    fake.group(2, "app", memory__max=64 * MB, memory__current=64 * MB, memory__stat=stat)
    assert fake.left() == 50 * MB
    stat = f"inactive_file 0\ntotal_inactive_file {30 * MB}\ntotal_active_file {10 * MB}\n"
    fake.member("4:memory:/app")
    fake.group(
        1, "app", memory__limit_in_bytes=64 * MB, memory__usage_in_bytes=64 * MB, memory__stat=stat
    )
    assert fake.left() == 40 * MB


def test_swap_counts_as_far_as_the_group_may_use_it(fake: FakeHost):
    fake.say("proc/meminfo", f"MemAvailable: {1 << 20} kB\nSwapFree: {100 << 10} kB\n")
    fake.mount(2)
    fake.member("0::/app")
    fake.group(2, "app", memory__max=64 * MB, memory__current=0)
    assert fake.left() == 164 * MB
    fake.group(2, "app", memory__swap__max=30 * MB, memory__swap__current=10 * MB)
    assert fake.left() == 84 * MB
    fake.group(2, "app", memory__swap__max=0)
    assert fake.left() == 64 * MB


def test_memory_and_swap_together_have_a_limit_in_version_1(fake: FakeHost):
    fake.say("proc/meminfo", f"MemAvailable: {1 << 20} kB\nSwapFree: {100 << 10} kB\n")
    fake.mount(1)
    fake.member("4:memory:/app")
    fake.group(1, "app", memory__limit_in_bytes=64 * MB, memory__usage_in_bytes=0)
    assert fake.left() == 164 * MB
    fake.group(1, "app", memory__memsw__limit_in_bytes=80 * MB, memory__memsw__usage_in_bytes=0)
    assert fake.left() == 80 * MB


@needs("a control group")
def test_a_size_beyond_the_groups_limit_is_refused_not_killed(name: str):
    program = """
import os, sys
from shm_async import Region
with open(sys.argv[2] + "/cgroup.procs", "w") as file:
    file.write(str(os.getpid()))
for size, address in ((128 << 20, sys.argv[1]), (128 << 20, None)):
    try:
        Region.create(address, size)
    except OSError as error:
        print(error.errno, error)
Region.create(sys.argv[1], 8 << 20).unlink()
"""
    with limited_group(64 * MB) as group:
        done = subprocess.run(
            [sys.executable, "-c", program, name, group],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 0, (done.returncode, done.stderr)
    refusals = done.stdout.splitlines()
    assert len(refusals) == 2
    assert all(line.startswith(f"{errno.ENOMEM} ") and str(64 * MB) in line for line in refusals)


# ---- /dev/shm ------------------------------------------------------------------------------


def test_the_error_names_what_enlarges_the_file_system_here(fake: FakeHost, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "remount" in str(room.no_room("x", 1, fake.host))
    (fake.path / "run").mkdir()
    fake.say("run/.containerenv", "")
    assert "podman run --shm-size" in str(room.no_room("x", 1, fake.host))
    fake.say(".dockerenv", "")
    assert "docker run --shm-size" in str(room.no_room("x", 1, fake.host))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert "emptyDir" in str(room.no_room("x", 1, fake.host))


MOUNTED = """
import os, sys
from multiprocessing import shared_memory
from shm_async import Region, prune
memory = shared_memory.SharedMemory("theirs", create=True, size=100_000)
with Region.create("ours", 100_000) as ours, Region.attach("theirs") as theirs:
    ours.resize(200_000)
    with ours.write_lock() as view:
        view[199_999] = 1
    assert len(theirs) == 100_000
assert prune("ours") == ["ours"]
memory.close()
memory.unlink()
"""


@needs("a mount")
@pytest.mark.parametrize("sort", ["tmpfs -o size=0", "ramfs"])
def test_a_file_system_without_a_limit_is_not_full(sort: str):
    command = f'mount -t {sort} x /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "-", sys.executable, "-c", MOUNTED],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs("a mount")
def test_sixty_four_megabytes_are_enough_and_more_is_told_with_figures():
    program = """
from shm_async import Region
Region.create("small", 48 << 20).close()
try:
    Region.create("large", 48 << 20)
except OSError as error:
    print(error)
"""
    command = 'mount -t tmpfs -o size=64m x /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "-", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert f"{(48 << 20) + 4096} bytes wanted, {(16 << 20) - 4096} bytes free" in done.stdout


def test_this_machine_has_memory(name: str):
    assert MB < room.HOST.memory().left < 2**60
    assert room.HOST.free_bytes() > 0
    Region.create(name, 2 * MB).close()
