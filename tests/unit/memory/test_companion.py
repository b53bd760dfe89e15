"""The file that carries a System V segment's lock has a life of its own: it may be removed."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import pytest
from peers import segment_of

from shm_async import OwnerDiedError, Region, _native
from shm_async._memory.names import companion_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]

OTHER = """
import sys
from shm_async import LockTimeoutError, Region
def repair(hold):
    print("repaired", end=" ")
    hold.view[0] += 1
try:
    with Region.attach(int(sys.argv[2]), on_owner_death=repair) as region:
        with region.write_lock(timeout=0.2) as view:
            view[0] += 1
            print("inside")
except LockTimeoutError:
    print("kept out")
except OSError as error:
    print(error.errno, "RemoveIPC" in str(error))
"""

REFUSED = f"{errno.EIDRM} True"


@pytest.fixture
def region(sysv_key: int) -> Iterator[Region]:
    with Region.create(sysv_key, 4, unlink="creator") as region:
        yield region


@pytest.fixture
def other(run_python: Run, sysv_key: int) -> Callable[[], str]:
    """What another process hears that attaches, locks and writes."""

    def ask() -> str:
        result = run_python(OTHER, str(sysv_key))
        assert result.stderr == ""
        return result.stdout.strip()

    return ask


def lose_companion(key: int) -> None:
    os.unlink(f"/dev/shm/{companion_of(key)}")


def refused(use: Callable[[], object]) -> bool:
    with pytest.raises(OSError, match="RemoveIPC") as caught:
        use()
    return caught.value.errno == errno.EIDRM


def lock(region: Region, kind: str = "write") -> None:
    with region.write_lock() if kind == "write" else region.read_lock():
        pass


def test_nobody_joins_a_writer_whose_companion_was_removed(region: Region, sysv_key: int, other):
    with region.write_lock() as view:
        assert other() == "kept out"
        lose_companion(sysv_key)
        assert other() == REFUSED
        assert other() == REFUSED  # it has left no companion behind, either
        assert view[0] == 0
    assert region.generation == 2


@pytest.mark.parametrize("kind", ["read", "write"])
def test_who_has_the_old_companion_is_told_at_the_next_grant(
    region: Region, sysv_key: int, kind: str
):
    with Region.attach(sysv_key) as second:
        lock(second)
        lose_companion(sysv_key)
        assert refused(lambda: lock(region, kind))
        assert refused(lambda: lock(second, kind))
        assert region.holders() == ()


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_task_is_told_as_well(region: Region, sysv_key: int, kind: str):
    hold = region.write_lock() if kind == "write" else region.read_lock()
    lose_companion(sysv_key)
    with pytest.raises(OSError, match="RemoveIPC"):
        await hold.acquire()


async def test_those_who_wait_are_told(region: Region, sysv_key: int):
    async def wait() -> None:
        with pytest.raises(OSError, match="RemoveIPC"):
            await region.write_lock().acquire()

    with Region.attach(sysv_key) as second:
        held = second.write_lock()
        held.acquire_blocking()
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            with anyio.fail_after(10):
                while region.statistics().waiting < 2:
                    await anyio.lowlevel.checkpoint()
            lose_companion(sysv_key)
            held.release()


def test_a_live_writer_is_never_taken_for_dead(region: Region, sysv_key: int, other):
    with Region.attach(sysv_key, on_owner_death=lambda hold: pytest.fail("repaired")) as second:
        with region.write_lock() as view:
            lose_companion(sysv_key)
            heard: list[BaseException] = []

            def ask() -> None:
                try:
                    lock_soon(second)
                except BaseException as error:
                    heard.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            assert other() == REFUSED
            view[0] = 1
        assert not isinstance(heard[0], OwnerDiedError)
        assert second.snapshot()[0] == 1


def lock_soon(region: Region) -> None:
    with region.write_lock(timeout=0.1):
        pass


def test_a_segment_that_nobody_is_attached_to_gets_another_companion(sysv_key: int, other):
    with Region.create(sysv_key, 4) as region, region.write_lock() as view:
        view[0] = 7
        lose_companion(sysv_key)
    assert other() == "inside"
    with Region.attach(sysv_key, unlink="creator") as region:
        with region.write_lock() as view:
            assert view[0] == 8
            assert other() == "kept out"
        assert other() == "inside"
        region.unlink()


def test_another_dev_shm_is_refused_while_somebody_is_attached(region: Region, sysv_key: int):
    """Another /dev/shm under the same ipc namespace, as some container set-ups have."""
    program = 'mount -t tmpfs none /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", program, "sh", sys.executable, "-c", OTHER]

    def elsewhere() -> str:
        done = subprocess.run(
            [*command, "", str(sysv_key)], capture_output=True, text=True, timeout=30, check=False
        )
        if "unshare" in done.stderr or "mount" in done.stderr:
            pytest.skip(f"no mount namespace to be had: {done.stderr}")
        return done.stdout.strip()

    with region.write_lock() as view:
        assert elsewhere() == REFUSED
        assert view[0] == 0
    assert elsewhere() == REFUSED
    lock(region)


def test_who_came_by_another_companion_meanwhile_parts_those_before(region: Region, sysv_key: int):
    """As if both had found that nobody was attached, each in its own /dev/shm."""
    lock(region)
    control = region._table.opener.control
    assert control.companion == region._attachment.segment.cookie() != 0
    control.companion += 1
    assert refused(lambda: lock(region))
    control.companion -= 1
    lock(region)


def test_a_segment_that_was_removed_can_still_be_locked_by_those_who_have_it(sysv_key: int):
    with Region.create(sysv_key, 4) as region, Region.attach(sysv_key) as second:
        region.unlink()
        lock(region)
        with second.write_lock() as view:
            view[0] = 1
        assert segment_of(sysv_key) is None


def test_a_raw_segments_companion_that_was_removed_is_told_to_those_who_had_it(sysv_key: int):
    with Region.create(sysv_key, 4, layout="raw") as region:
        lock(region)
        lose_companion(sysv_key)
        assert refused(lambda: lock(region))
        region.unlink()


def test_where_the_cookie_stands_is_as_the_header_says():
    page = _native.control_to_bytes(companion=0x0102030405060708)
    assert int.from_bytes(page[200:208], sys.byteorder) == 0x0102030405060708
