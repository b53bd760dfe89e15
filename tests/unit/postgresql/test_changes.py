"""Hearing of stores: also after the listener's connection broke; and what a fork does."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import anyio
import pytest
from databases import Server, sessions
from proxies import Proxy
from waits import until

from shm_async import RegionServerError, SharedRegion
from shm_async._postgresql.hub import Hub

pytestmark = pytest.mark.once

OpenOne = Callable[..., SharedRegion]


async def store(region: SharedRegion) -> None:
    async with region.write_lock() as view:
        view[0] += 1


async def heard(region: SharedRegion, since: int) -> int:
    with anyio.fail_after(20):
        return await region.wait_changed(since=since)


def listeners(database: Server) -> list[object]:
    return [pid for pid, _, query in sessions(database) if "LISTEN" in str(query)]


async def test_a_store_while_the_listener_is_cut_off_is_not_missed(
    open_by_proxy: OpenOne, open_one: OpenOne, proxy: Proxy
):
    async with open_by_proxy() as region, open_one() as other:
        await store(other)
        since = await heard(region, 0)
        proxy.answers = False
        await store(other)
        proxy.cut()
        proxy.forward()
        assert await heard(region, since) == since + 2


async def test_it_hears_again_after_a_restart(open_one: OpenOne, database: Server):
    async with open_one() as region, open_one() as other:
        await store(other)
        since = await heard(region, 0)
        if database.ours:
            database.stop(signal.SIGQUIT)
            database.start()
        await store(other)
        assert await heard(region, since) == since + 2


async def test_regions_of_a_loop_share_a_listener_which_goes_with_them(
    open_one: OpenOne, database: Server
):
    async with open_one() as one, open_one() as other:
        async with anyio.create_task_group() as tasks:
            for region in (one, other):
                tasks.start_soon(heard, region, region.generation or 0)
            await until(lambda: len(sessions(database)) == 3)
            await anyio.sleep(0.2)  # a second listener would come now
            assert len(sessions(database)) == 3
            await store(one)
    await until(lambda: not sessions(database))  # the server ends them after we have gone


async def test_a_wait_without_a_server_ends_with_an_error(open_by_proxy: OpenOne, proxy: Proxy):
    async with open_by_proxy(connect_timeout=0.6) as region:
        proxy.close()
        with anyio.fail_after(20), pytest.raises(RegionServerError):
            await region.wait_changed()


async def test_a_wait_ends_with_an_error_if_the_listener_fails(
    open_one: OpenOne, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(hub: Hub, session: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Hub, "_deliver", fail)
    async with open_one() as region:
        with anyio.fail_after(20), pytest.raises(RegionServerError, match="listener has ended"):
            await region.wait_changed()
    assert "ZeroDivisionError" in caplog.text


async def test_one_that_is_slow_hears_of_the_last_store(open_one: OpenOne):
    async with open_one() as region, open_one() as other:
        changes = region.changes()
        for _ in range(20):
            await store(other)
        last = other.generation
        with anyio.fail_after(20):
            while await changes.__anext__() != last:
                pass


async def test_a_downgrade_passes_by_a_writer_that_waits(open_one: OpenOne, database: Server):
    async with open_one() as one, open_one() as other, anyio.create_task_group() as tasks:
        hold = one.write_lock()
        view = await hold.acquire()
        view[0] = 1
        tasks.start_soon(store, other)
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        with anyio.fail_after(20):
            while not database.sql(waiting):
                await anyio.sleep(0.01)
            await hold.downgrade_async()
        assert hold.view[0] == 1
        assert database.sql(waiting)
        await hold.release_async()


FORKS = """
import os, sys, shm_async
region = shm_async.open_region(sys.argv[1], 4, dtype="uint64")
with region:
    with region.write_lock() as view:
        view[0] = 1
        pid = os.fork()
        if pid == 0:
            try:
                region.read_lock().acquire_blocking(timeout=1)
            except RuntimeError as error:
                os._exit(0 if "another process" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with region.read_lock() as view:
        assert view[0] == 1
pid = os.fork()
if pid == 0:
    with shm_async.open_region(sys.argv[1], 4, dtype="uint64") as mine:
        with mine.write_lock() as view:
            view[0] += 1
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_child_leaves_its_parents_lock_alone_and_may_enter_itself(address: str):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, address],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr


INTERRUPTED = """
import os, sys, shm_async
with shm_async.open_region(sys.argv[1], 4, dtype="uint64") as region:
    os.write(1, b"!")
    try:
        with region.write_lock():
            pass
    except KeyboardInterrupt:
        os.write(1, b"+")
"""


def test_ctrl_c_ends_the_wait_of_a_thread(open_one: OpenOne, address: str, database: Server):
    with open_one() as region:
        with region.write_lock():
            process = subprocess.Popen(
                [sys.executable, "-c", INTERRUPTED, address], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert os.read(process.stdout.fileno(), 1) == b"!"
            waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not database.sql(waiting):
                pass
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=10)[0] == b"+"
            assert not database.sql(waiting)
