"""Root opens a region and then becomes another user: what works, and what says why it does not."""

import asyncio
import errno
import os
import resource
import stat
import threading
from collections.abc import Callable

import anyio
import pytest
from forks import start_child, status_of
from peers import segment_of
from privileges import needs

from shm_async import Region
from shm_async._memory.names import companion_of

STRANGER = 65534

pytestmark = needs("another user", "giving files away")


def become_stranger() -> None:
    os.setgroups([])
    os.setgid(STRANGER)
    os.setuid(STRANGER)


def in_child(do: Callable[[], object]) -> str:
    """Run that in a forked child; what it returned, or the error that it raised."""
    read_end, write_end = os.pipe()

    def tell() -> None:
        try:
            said = repr(do())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write_end, said.encode())

    pid = start_child(tell)
    os.close(write_end)
    with open(read_end) as pipe:
        said = pipe.read()
    assert status_of(pid) == 0
    return said


def count(region: Region) -> int:
    with region.write_lock(timeout=5) as view:
        view[0] += 1
    return region.snapshot()[0]


async def count_in_loop(region: Region) -> int:
    async with region.write_lock() as view:
        view[0] += 1
    return region.snapshot()[0]


def in_threads(region: Region, number: int) -> int:
    """Count in threads that are inside, or wait, at the same time."""
    barrier = threading.Barrier(number)
    errors = []

    def run() -> None:
        try:
            with region.read_lock():
                barrier.wait(5)
            count(region)
        except BaseException as error:
            barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return region.snapshot()[0]


WAYS = {
    "thread": count,
    "asyncio": lambda region: asyncio.run(count_in_loop(region)),
    "trio": lambda region: anyio.run(count_in_loop, region, backend="trio"),
    "threads": lambda region: in_threads(region, 4) - 3,
}

OPEN_TO_STRANGER = {
    "user": {"user": STRANGER},
    "user by name": {"user": "nobody"},
    "group": {"group": STRANGER, "mode": 0o660},
    "group by name": {"group": "nogroup", "mode": 0o660},
}


@pytest.fixture(params=["posix", "sysv", "sysv raw"])
def where(request: pytest.FixtureRequest) -> dict[str, object]:
    if request.param == "posix":
        return {"name": request.getfixturevalue("name")}
    layout = "raw" if request.param == "sysv raw" else "managed"
    return {"name": request.getfixturevalue("sysv_key"), "layout": layout}


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """What a stranger could not import any more, where Python belongs to root alone."""
    import trio  # noqa: F401

    asyncio.run(asyncio.sleep(0))
    anyio.run(anyio.sleep, 0, backend="trio")


@pytest.mark.parametrize("given", OPEN_TO_STRANGER.values(), ids=OPEN_TO_STRANGER)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("when", ["untouched", "locked before"])
def test_one_who_may_open_it_locks_it_in_every_way(where, given, way, when: str):
    with Region.create(length=4, unlink="creator", **where, **given) as region:
        if when != "untouched":
            with region.write_lock():
                pass

        def stranger() -> bool:
            become_stranger()
            return way(region) >= 1 if region.layout == "managed" else count(region) == 1

        assert in_child(stranger) == "True"


def test_the_object_has_the_owners_that_were_asked_for(name: str, sysv_key: int):
    for where in name, sysv_key:
        with Region.create(where, 4, user=1234, group=4321, mode=0o640) as region:
            path = name if where == name else companion_of(sysv_key)
            found = os.stat(f"/dev/shm/{path}")
            assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o640)
            region.unlink()
    with Region.create(sysv_key, 4, user=1234, group=4321, layout="raw") as region:
        row = segment_of(sysv_key) or {}
        assert (row["uid"], row["gid"], row["cuid"]) == (1234, 4321, 0)
        with region.write_lock():  # makes the companion
            assert os.stat(f"/dev/shm/{companion_of(sysv_key)}").st_uid == 1234
        region.unlink()


def test_root_opens_again_what_it_has_given_away(name: str):
    for created in True, False:
        with Region.open(name, 4, user=STRANGER) as region:
            assert region.created is created
    with pytest.raises(PermissionError, match="belongs to user"):
        Region.open(name, 4)
    with Region.attach(name, owner=STRANGER) as region:
        assert len(region) == 4


def test_others_cannot_give_anything_away_and_leave_nothing(name: str, sysv_key: int):
    def stranger(where: object) -> None:
        become_stranger()
        Region.create(where, 4, user=1)  # type: ignore[arg-type]

    for where in name, sysv_key:
        assert "only root" in in_child(lambda where=where: stranger(where))
    assert not os.path.exists(f"/dev/shm/{name}")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"user": "nobody such"}, ValueError),
        ({"group": "nobody such"}, ValueError),
        ({"user": -1}, ValueError),
        ({"group": 2**32 - 1}, ValueError),
        ({"user": 1.5}, TypeError),
        ({"group": True}, TypeError),
    ],
)
def test_who_does_not_exist_is_an_error_that_says_so(name: str, given, kind):
    for make in Region.create, Region.open:
        with pytest.raises(kind, match="name or an id|an id of 0"):
            make(name, 4, **given)
    assert not os.path.exists(f"/dev/shm/{name}")


# ---- without that ---------------------------------------------------------------------


@pytest.mark.parametrize("forks", [True, False])
def test_one_thread_at_a_time_can_lock_what_only_root_may_open(name: str, forks: bool):
    def stranger(region: Region) -> list[int]:
        become_stranger()
        return [count(region), count(region)]

    def opens_itself() -> list[int]:
        with Region.attach(name) as region:
            return stranger(region)

    with Region.create(name, 4) as region:
        assert in_child((lambda: stranger(region)) if forks else opens_itself) == "[1, 2]"


@pytest.mark.parametrize("way", ["threads", "watch"])
def test_what_cannot_work_says_what_to_do_at_creation(name: str, way: str):
    async def watch(region: Region) -> None:
        await region.wait_changed()

    def stranger() -> object:
        become_stranger()
        return in_threads(region, 4) if way == "threads" else asyncio.run(watch(region))

    with Region.create(name, 4) as region:
        said = in_child(stranger)
    for part in ("PermissionError", "user 65534", "user 0", "0o600", "user=", "group=", "mode="):
        assert part in said, said


def test_watchers_hear_of_one_who_may_only_read_by_now(name: str):
    """It opens its locks for reading alone. Its mapping and one descriptor may write."""

    async def listen(region: Region, go: int) -> int:
        since = region.generation
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                heard: list[int] = []

                async def wait() -> None:
                    heard.append(await region.wait_changed(since=since))

                group.start_soon(wait)
                await anyio.sleep(0.05)  # until it listens; a later one would hear as well
                os.write(go, b".")
        return heard[0]

    with Region.create(name, 4, mode=0o644) as region:
        hear, go = os.pipe()
        stay, leave = os.pipe()

        def stranger() -> None:
            become_stranger()
            first = region._table.opener.open()  # the only one that root had opened
            os.read(hear, 1)
            count(region)
            os.read(stay, 1)  # to end would close what may write, and watchers hear of that
            del first

        pid = start_child(stranger)
        assert anyio.run(listen, region, go) == 2
        os.write(leave, b".")
        assert status_of(pid) == 0
        for fd in hear, go, stay, leave:
            os.close(fd)


@needs("another root directory")
def test_a_changed_root_directory_is_told_after_the_first_lock(name: str, tmp_path):
    def jailed() -> list[object]:
        os.chroot(tmp_path)
        os.chdir("/")
        first = count(region)
        try:
            in_threads(region, 2)
        except OSError as error:
            return [first, error.errno, "chroot" in str(error)]
        return [first]

    with Region.create(name, 4) as region:
        assert in_child(jailed) == f"[1, {errno.ENOENT}, True]"


def test_a_limit_on_descriptors_leaves_the_first_lock_and_is_named(name: str):
    def limited() -> list[object]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), 4096))
        first = count(region)
        try:
            in_threads(region, 2)
        except OSError as error:
            return [first, error.errno, "RLIMIT_NOFILE" in str(error)]
        return [first]

    with Region.create(name, 4) as region:
        assert in_child(limited) == f"[1, {errno.EMFILE}, True]"
