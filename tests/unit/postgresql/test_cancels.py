"""Cancellations at any moment: no lock is left, and no change that was made is lost."""

import random
from collections.abc import Callable

import anyio
import pytest
from databases import Server
from waits import until

from shm_async import SharedRegion

pytestmark = pytest.mark.once


async def first(region: SharedRegion) -> int:
    async with region.read_lock() as view:
        return view[0]


async def test_cancels_at_any_moment_leave_no_lock_and_lose_no_change(
    open_one: Callable[..., SharedRegion], database: Server
):
    """Also those that race with a grant, whose request is called off too late, and in an exit."""
    rng = random.Random(7)
    ended = 0

    async def increment(region: SharedRegion) -> None:
        nonlocal ended
        async with region.write_lock() as view:
            view[0] += 1
            ended += 1

    async with open_one() as one, open_one() as other:
        for _ in range(150):
            async with anyio.create_task_group() as tasks:
                for region in (one, other, one):
                    tasks.start_soon(increment, region)
                await anyio.sleep(rng.random() * 0.003)
                tasks.cancel_scope.cancel()
        assert await first(one) == ended
        assert await first(other) == ended
        held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
        await until(lambda: not database.sql(held))
    assert ended
