"""Holds that are lost: who is told, when, and that nothing they wrote gets in."""

import signal
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import pytest
from databases import INTERVAL, Server, sessions
from proxies import Proxy
from waits import until

from shm_async import LockLostError, RegionServerError, SharedRegion

OpenOne = Callable[..., SharedRegion]

pytestmark = pytest.mark.once


def terminate(database: Server) -> None:
    """End all our sessions, as an administrator may."""
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'shm_async'"
    )


async def first(region: SharedRegion) -> int:
    async with region.read_lock() as view:
        return view[0]


async def lost_in_time(hold: Any, interval: float = INTERVAL) -> None:
    """Wait until it is: two intervals at most, and longer if this machine stops meanwhile."""
    began = monotonic()
    with anyio.fail_after(20):
        await hold.lost.wait()
    assert monotonic() - began <= 2 * interval + 1


# ---- the holder is told -----------------------------------------------------------------


async def test_a_writer_whose_session_ends_is_told_and_stores_nothing(
    open_one: OpenOne, database: Server
):
    async with open_one() as region:
        hold: Any = region.write_lock()
        with pytest.raises(LockLostError, match="not in") as caught:
            async with hold as view:
                view[0] = 1
                terminate(database)
                await lost_in_time(hold)
        assert caught.value.committed is False
        assert caught.value.fence == hold.fence > 0
        assert await first(region) == 0
        async with region.write_lock() as view:
            view[0] = 2
        assert await first(region) == 2


async def test_a_writer_that_notices_nothing_is_told_at_its_end(
    open_one: OpenOne, database: Server
):
    async with open_one() as region:
        with pytest.raises(LockLostError) as caught:
            async with region.write_lock() as view:
                view[0] = 1
                terminate(database)
        assert caught.value.committed is False
        assert await first(region) == 0


async def test_a_block_that_changed_nothing_or_read_is_not_told(
    open_one: OpenOne, database: Server
):
    async with open_one() as region:
        for hold in (region.write_lock(), region.read_lock()):
            lost: Any = hold
            async with hold:
                terminate(database)
                await lost_in_time(lost)
        assert await first(region) == 0


async def test_a_block_may_be_cancelled_when_its_lock_is_lost(open_one: OpenOne, database: Server):
    async with open_one(on_lost="cancel") as region:
        with pytest.raises(LockLostError), anyio.fail_after(20):
            async with region.write_lock() as view:
                view[0] = 1
                terminate(database)
                await anyio.sleep_forever()
        with pytest.raises(LockLostError), anyio.fail_after(20):
            async with region.read_lock():
                terminate(database)
                await anyio.sleep_forever()
        assert await first(region) == 0


async def test_a_holder_in_a_black_hole_is_told_in_time(open_by_proxy: OpenOne, proxy: Proxy):
    async with open_by_proxy(check_interval=1.0) as region:
        hold: Any = region.write_lock()
        with pytest.raises(LockLostError) as caught:
            async with hold as view:
                view[0] = 1
                proxy.black_hole()
                await lost_in_time(hold, 1.0)
                proxy.forward()
        assert caught.value.committed is False
        assert await first(region) == 0


def test_a_thread_is_told(open_one: OpenOne, database: Server):
    with open_one() as region:
        hold: Any = region.write_lock()
        with pytest.raises(LockLostError):
            with hold as view:
                view[0] = 1
                terminate(database)
                assert hold.lost.wait(20)


# ---- whether it was committed --------------------------------------------------------------

#: Seconds. For twice that long a client asks whether its store is in; the proxy ends the wait.
LONG = 2.0


async def test_a_change_that_is_in_does_not_raise(open_by_proxy: OpenOne, proxy: Proxy):
    """The server stores, and its answer gets lost."""
    async with open_by_proxy(check_interval=LONG) as region:
        before = region.generation
        async with region.write_lock() as view:
            view[0] = 1
            proxy.answers = False

            async def restore() -> None:
                await anyio.to_thread.run_sync(proxy.wait_until_thrown)
                proxy.answers = True
                proxy.cut()

            tasks = anyio.create_task_group()
            await tasks.__aenter__()
            tasks.start_soon(restore)
        await tasks.__aexit__(None, None, None)
        assert await first(region) == 1
        assert region.generation == before + 2


async def test_a_change_that_did_not_arrive_raises(open_by_proxy: OpenOne, proxy: Proxy):
    async with open_by_proxy(check_interval=LONG) as region:
        with pytest.raises(LockLostError) as caught:
            async with region.write_lock() as view:
                view[0] = 1
                proxy.requests = False

                async def restore() -> None:
                    await anyio.to_thread.run_sync(proxy.wait_until_thrown)
                    proxy.cut()
                    proxy.requests = True

                tasks = anyio.create_task_group()
                await tasks.__aenter__()
                tasks.start_soon(restore)
        await tasks.__aexit__(None, None, None)
        assert caught.value.committed is False
        assert await first(region) == 0


async def test_nobody_knows_if_the_server_cannot_be_asked(open_by_proxy: OpenOne, proxy: Proxy):
    began = monotonic()
    async with open_by_proxy() as region:
        with pytest.raises(LockLostError, match="could not be asked") as caught:
            async with region.write_lock() as view:
                view[0] = 1
                proxy.answers = False
        assert caught.value.committed is None
        proxy.cut()
        proxy.forward()
    assert monotonic() - began < 4 * INTERVAL + 10


async def test_who_else_was_in_between_does_not_hide_a_change_that_is_in(
    open_by_proxy: OpenOne, open_one: OpenOne, proxy: Proxy
):
    """Many others store while the first one still asks whether its own is in."""
    async with open_by_proxy(check_interval=LONG) as region, open_one() as other:
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                async with region.write_lock() as view:
                    view[0] = 1
                    proxy.answers = False

            tasks.start_soon(write)
            await anyio.to_thread.run_sync(proxy.wait_until_thrown)
            proxy.cut()  # the lock is free now, and the change is in
            for _ in range(40):
                async with other.write_lock() as view:
                    view[1] += 1
            proxy.forward()
        async with other.read_lock() as view:
            assert list(view[:2]) == [1, 40]


# ---- the server refuses ------------------------------------------------------------------


async def test_the_server_itself_refuses_a_stale_store(open_one: OpenOne, database: Server):
    async with open_one() as region:
        async with region.write_lock() as view:
            view[0] = 1
        [[identity, revision]] = database.sql(
            "SELECT id, revision FROM shm_async.regions WHERE name = %s", region.name
        )
        store = (
            "SELECT shm_async.store(%s, %s, {pid}, gen_random_uuid(), 1, gen_random_uuid(), "
            "decode(repeat('ff', 32), 'hex'))"
        )
        stale = store.format(pid="pg_backend_pid()")
        foreign = store.format(pid="pg_backend_pid() + 1")
        assert database.sql(stale, identity, int(str(revision)) - 1) == [(None,)]
        assert database.sql(foreign, identity, revision) == [(None,)]
        assert await first(region) == 1


async def test_a_holder_that_wakes_up_late_is_refused(open_by_proxy: OpenOne, open_one: OpenOne):
    """With the checks of the client switched off, for a session that lost its lock."""
    async with open_by_proxy() as stale, open_one() as other:
        site = stale._entrances.here()
        session = site.session
        grant = await session.take(site.identity, exclusive=True, known=None, patience=0)
        await session.free()  # as a failover does
        async with other.write_lock() as view:
            view[0] = 7
        refused = await session.store(
            site.identity, grant.revision, site.author, 1, bytes(32), then="free"
        )
        assert refused is None
        assert await first(other) == 7


async def test_fences_rise_with_each_block_also_after_a_restart(
    open_one: OpenOne, database: Server
):
    fences = []
    async with open_one() as one, open_one() as other:
        for region in (one, other, one):
            hold: Any = region.write_lock()
            async with hold:
                fences.append(hold.fence)

        async def take() -> None:
            hold: Any = one.write_lock()
            async with hold as view:
                view[0] += 1
                fences.append(hold.fence)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(take)
        if database.ours:
            database.stop(signal.SIGKILL)
            database.start()
            await take()
    assert fences == sorted(set(fences))


# ---- the waiters --------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_waiter_queues_again_after_a_restart(
    open_one: OpenOne, database: Server, how: signal.Signals
):
    got = anyio.Event()

    async def wait(region: SharedRegion) -> None:
        async with region.write_lock() as view:
            view[0] += 1
        got.set()

    async with open_one() as one, open_one() as other:
        async with anyio.create_task_group() as tasks:
            with pytest.raises(LockLostError):
                async with one.write_lock() as view:
                    view[0] = 99
                    tasks.start_soon(wait, other)
                    await until_one_waits(database)
                    database.stop(how)
                    database.start()
            with anyio.fail_after(20):
                await got.wait()
        assert await first(one) == 1


async def until_one_waits(database: Server) -> None:
    """Until the server has a session that waits for an advisory lock."""
    waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with anyio.fail_after(20):
        while not database.sql(waiting):
            await anyio.sleep(0.01)


async def test_entering_waits_for_a_server_that_starts(open_by_proxy: OpenOne, proxy: Proxy):
    proxy.answers = False
    async with anyio.create_task_group() as tasks:

        async def enter() -> None:
            async with open_by_proxy() as region:
                assert await first(region) == 0

        tasks.start_soon(enter)
        await anyio.to_thread.run_sync(proxy.wait_until_thrown)
        proxy.cut()  # as a server does that shuts down
        proxy.forward()


async def test_a_waiter_without_a_server_gives_up_in_time(open_by_proxy: OpenOne, proxy: Proxy):
    async with open_by_proxy(connect_timeout=0.6) as region:
        proxy.close()
        began = monotonic()
        with pytest.raises(RegionServerError, match="cannot be reached"):
            async with region.write_lock():
                pass
        assert 0.5 < monotonic() - began < 10


async def test_a_waiter_with_a_deadline_keeps_to_it(open_by_proxy: OpenOne, proxy: Proxy):
    async with open_by_proxy() as region:
        proxy.black_hole()
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            async with region.write_lock():
                pass
        proxy.cut()
        proxy.forward()
        assert await first(region) == 0


# ---- cancellation ---------------------------------------------------------------------------


async def test_a_cancellation_does_not_stop_a_store(open_one: OpenOne):
    async with open_one() as region:
        with anyio.CancelScope() as scope:
            async with region.write_lock() as view:
                view[0] = 1
                scope.cancel()
        assert await first(region) == 1


async def test_a_cancellation_in_the_block_stores_nothing(open_one: OpenOne):
    async with open_one() as region:
        with anyio.CancelScope() as scope:
            async with region.write_lock() as view:
                view[0] = 1
                scope.cancel()
                await anyio.sleep_forever()
        assert await first(region) == 0


async def test_cancelled_waits_leave_no_lock_and_no_session(open_one: OpenOne, database: Server):
    async with open_one() as one, open_one() as other:
        async with one.write_lock():
            for _ in range(10):
                async with anyio.create_task_group() as tasks:
                    for _ in range(50):
                        tasks.start_soon(first, other)
                        tasks.start_soon(other.write_lock().acquire)
                    await until_one_waits(database)
                    tasks.cancel_scope.cancel()
            waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            with anyio.fail_after(20):
                while database.sql(waiting):
                    await anyio.sleep(0.01)
        assert other.statistics().waiting == 0
        with anyio.fail_after(20):
            assert await first(other) == 0
        await until(lambda: len(sessions(database)) <= 4)
