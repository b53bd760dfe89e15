"""A connection of libpq: what it does with what nobody waits for, and with a server gone silent."""

from collections.abc import AsyncIterator
from time import monotonic

import anyio
import pytest
from databases import Server
from waits import until

from shm_async import RegionServerError
from shm_async._postgresql.signals import Signal, current_asyncio
from shm_async._postgresql.wire import Command, Wire

pytestmark = pytest.mark.once


@pytest.fixture
async def wire(database: Server) -> AsyncIterator[Wire]:
    wire = await Wire.connect(database.url.encode())
    wire.begin()
    yield wire
    wire.close()


async def test_answers_that_nobody_waits_for_are_not_taken_for_others(wire: Wire):
    await wire.run(behind=Command(b"SELECT 1"))
    [found] = await wire.run([Command(b"SELECT 'two'")], behind=Command(b"SELECT 3"))
    assert found.get_value(0, 0) == b"two"
    [found] = await wire.run([Command(b"SELECT 'four'")])
    assert found.get_value(0, 0) == b"four"


async def test_one_that_fails_ends_the_connection_at_the_next(wire: Wire):
    await wire.run([Command(b"SELECT 1")], behind=Command(b"SELECT 1/0"))
    with pytest.raises(RegionServerError, match="did not do what was asked"):
        await wire.run([Command(b"SELECT 2")])
    assert wire.dead


async def test_an_answer_that_takes_too_long_ends_the_connection(wire: Wire):
    began = monotonic()
    with pytest.raises(RegionServerError):
        await wire.run_within(0.1, [Command(b"SELECT pg_sleep(20)")])
    assert monotonic() - began < 15
    assert wire.dead


async def test_one_that_comes_in_time_does_not(wire: Wire):
    [found] = await wire.run_within(20, [Command(b"SELECT 'one'")], behind=Command(b"SELECT 2"))
    assert found.get_value(0, 0) == b"one"
    assert not wire.dead


async def test_one_that_is_cut_tells_the_task_that_waits(wire: Wire):
    with anyio.fail_after(20):
        await cut_while_it_waits(wire)
    assert wire.dead


async def cut_while_it_waits(wire: Wire) -> None:
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(RegionServerError):
                await wire.run([Command(b"SELECT pg_sleep(20)")])

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        wire.cut()


async def test_nothing_comes_from_one_that_is_gone(wire: Wire, database: Server):
    """It may be found to be gone while its last answer is worked on, and then be waited for."""
    database.sql(f"SELECT pg_terminate_backend({wire.pg.backend_pid})")
    await until(lambda: not wire.look())
    with anyio.fail_after(20), pytest.raises(RegionServerError, match="broke"):
        await wire.arrival()


async def test_asyncio_takes_in_what_nobody_waits_for(wire: Wire, database: Server):
    """Else a socket that has something to read would keep the loop busy."""
    loop = current_asyncio()
    if loop is None:
        pytest.skip("trio waits for a socket only when a task does")
    socket = wire.pg.socket
    await wire.run(behind=Command(b"SELECT repeat('x', 100000)"))
    await until(lambda: not wire.pg.is_busy())
    database.sql(f"SELECT pg_terminate_backend({wire.pg.backend_pid})")
    await until(lambda: wire.dead)
    assert not loop.remove_reader(socket)  # nor does it watch what libpq has closed


# ---- signals -----------------------------------------------------------------------------


async def test_a_signal_wakes_all_that_wait_and_delays_none_that_come_later():
    signal = Signal(current_asyncio())
    woken = []
    async with anyio.create_task_group() as tasks:

        async def wait(number: int) -> None:
            await signal.wait()
            woken.append(number)

        for number in range(3):
            tasks.start_soon(wait, number)
        await anyio.wait_all_tasks_blocked()
        assert woken == []
        assert not signal.is_set()
        signal.set()
    assert sorted(woken) == [0, 1, 2]
    assert signal.is_set()
    with anyio.fail_after(20):
        await signal.wait()


async def test_a_wait_for_a_signal_that_was_cancelled_leaves_the_others():
    signal = Signal(current_asyncio())
    cancelled = anyio.CancelScope()
    async with anyio.create_task_group() as tasks:

        async def wait_in_vain() -> None:
            with cancelled:
                await signal.wait()

        tasks.start_soon(wait_in_vain)
        tasks.start_soon(signal.wait)
        await anyio.wait_all_tasks_blocked()
        cancelled.cancel()
        signal.set()
    assert cancelled.cancelled_caught
