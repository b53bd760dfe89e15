"""A connection of libpq: what it does with a command that nobody waits for."""

import pytest
from databases import Server

from shm_async import RegionServerError
from shm_async._postgresql.wire import Command, Wire

pytestmark = pytest.mark.once


async def test_answers_that_nobody_waits_for_are_not_taken_for_others(database: Server):
    wire = await Wire.connect(database.url.encode())
    try:
        wire.begin()
        await wire.run(behind=Command(b"SELECT 1"))
        [found] = await wire.run([Command(b"SELECT 'two'")], behind=Command(b"SELECT 3"))
        assert found.get_value(0, 0) == b"two"
        [found] = await wire.run([Command(b"SELECT 'four'")])
        assert found.get_value(0, 0) == b"four"
    finally:
        wire.close()


async def test_one_that_fails_ends_the_connection_at_the_next(database: Server):
    wire = await Wire.connect(database.url.encode())
    try:
        wire.begin()
        await wire.run([Command(b"SELECT 1")], behind=Command(b"SELECT 1/0"))
        with pytest.raises(RegionServerError, match="did not do what was asked"):
            await wire.run([Command(b"SELECT 2")])
        assert wire.dead
    finally:
        wire.close()
