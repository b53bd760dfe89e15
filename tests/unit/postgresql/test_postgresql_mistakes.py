"""What is wrong with a database, a role, a row or a use: each an error that says which."""

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import psycopg
import pytest
from databases import INTERVAL, Server
from proxies import Proxy

from shm_async import (
    RegionFormatError,
    RegionNotFoundError,
    RegionServerError,
    RegionSizeError,
    SharedRegion,
    open_region,
)
from shm_async.postgresql import ddl

pytestmark = pytest.mark.once

OpenOne = Callable[..., SharedRegion]


async def enter(address: str, **options: object) -> None:
    options = {"check_interval": INTERVAL, "connect_timeout": 5.0, **options}
    async with open_region(address, 4, dtype="uint64", **options):
        pass


def as_role(address: str, role: str) -> str:
    """The address for another user, whose password is its name."""
    return re.sub(r"//[^@]*@", f"//{role}:{role}@", address)


@pytest.fixture
def role(database: Server) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    database.sql("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    database.sql("REVOKE ALL ON DATABASE postgres FROM public")
    database.sql("GRANT CONNECT ON DATABASE postgres TO guest")
    yield "guest"
    database.sql("DROP OWNED BY guest")
    database.sql("DROP ROLE guest")


# ---- the server ---------------------------------------------------------------------------


async def test_no_such_database(address: str):
    with pytest.raises(RegionServerError, match="no such database"):
        await enter(address.replace("/postgres#", "/elsewhere#"))


async def test_a_wrong_password_and_a_wrong_user(address: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    for wrong in ("postgres:s3cr3t", "unknown:s3cr3t"):
        with pytest.raises(PermissionError, match="refuses this user") as caught:
            await enter(re.sub(r"//[^@]*@", f"//{wrong}@", address))
        assert "s3cr3t" not in str(caught.value) + repr(caught.value) + caplog.text


async def test_no_server(address: str):
    with pytest.raises(RegionServerError, match="cannot be reached"):
        await enter(re.sub(r"@[^/]*/", "@127.0.0.1:1/", address), connect_timeout=0.5)


async def test_a_server_that_does_not_answer(open_by_proxy: OpenOne, proxy: Proxy):
    proxy.black_hole()
    with pytest.raises(RegionServerError, match="does not answer in time"):
        async with open_by_proxy(connect_timeout=0.2):
            pass


async def test_a_host_without_an_address(address: str):
    with pytest.raises(RegionServerError, match="has no address"):
        await enter(re.sub(r"@[^/]*/", "@nowhere.invalid/", address), connect_timeout=1.0)


# ---- rights -------------------------------------------------------------------------------


async def test_a_role_that_may_not_create_the_tables(address: str, role: str, database: Server):
    with pytest.raises(PermissionError, match="shm-async sql"):
        await enter(as_role(address, role), schema="private_one")
    database.sql(ddl("private_one", role=role))
    try:
        await enter(as_role(address, role), schema="private_one")
        async with open_region(
            as_role(address, role), 4, dtype="uint64", schema="private_one"
        ) as region:
            async with region.write_lock() as view:
                view[0] = 1
            async with region.read_lock() as view:
                assert view[0] == 1
            await region.unlink_async()
    finally:
        database.sql("DROP SCHEMA private_one CASCADE")


def test_the_sql_runs_twice_and_checks_its_names(database: Server):
    database.sql(ddl("private_two"))
    database.sql(ddl("private_two"))
    database.sql("DROP SCHEMA private_two CASCADE")
    for bad in ("Upper", "a b", 'x"; DROP', "", "9"):
        with pytest.raises(ValueError, match="schema"):
            ddl(bad)
    assert '"o""dd"' in ddl(role='o"dd')


# ---- tables and rows ------------------------------------------------------------------------


async def test_tables_of_another_version(address: str, database: Server):
    database.sql(ddl("private_three"))
    database.sql("UPDATE private_three.meta SET version = 99")
    try:
        with pytest.raises(RegionFormatError, match="version 99"):
            await enter(address, schema="private_three")
        database.sql("DROP TABLE private_three.meta")
        with pytest.raises(RegionFormatError, match="not those of this version"):
            await enter(address, schema="private_three")
    finally:
        database.sql("DROP SCHEMA private_three CASCADE")


async def test_waits_for_changes_end_when_the_tables_are_no_more_ours(
    address: str, database: Server
):
    database.sql(ddl("private_four"))
    options: dict[str, Any] = {"schema": "private_four", "check_interval": INTERVAL}
    try:
        async with open_region(address, 4, dtype="uint64", **options) as region:
            database.sql("UPDATE private_four.meta SET version = 99")
            with anyio.fail_after(20), pytest.raises(RegionFormatError, match="version 99"):
                await region.wait_changed()
            database.sql("UPDATE private_four.meta SET version = 1")
            with anyio.move_on_after(0.2) as scope:
                await region.wait_changed()
            assert scope.cancelled_caught
    finally:
        database.sql("DROP SCHEMA private_four CASCADE")


async def test_a_row_whose_data_was_changed_in_size(open_one: OpenOne, database: Server):
    async with open_one() as region:
        database.sql("UPDATE shm_async.regions SET data = 'x', token = gen_random_uuid() "
                     "WHERE name = %s", region.name)  # fmt: skip
        with pytest.raises(RegionSizeError, match="1 bytes"):
            async with region.read_lock():
                pass
    with pytest.raises(RegionSizeError, match="1 bytes"):
        async with open_one():
            pass


async def test_another_shape_is_refused(open_one: OpenOne, address: str):
    async with open_one():
        with pytest.raises(RegionFormatError, match="shape"):
            async with open_region(address, shape=(2, 2), dtype="uint64"):
                pass


async def test_a_region_that_was_unlinked_meanwhile(open_one: OpenOne):
    async with open_one() as one, open_one() as other:
        await other.unlink_async()
        for hold in (one.read_lock(), one.write_lock()):
            with pytest.raises(RegionNotFoundError):
                async with hold:
                    pass
        with pytest.raises(RegionNotFoundError):
            await one.snapshot_async()


async def test_old_writers_are_forgotten(open_one: OpenOne, database: Server):
    count = (
        "SELECT count(*) FROM shm_async.writers "
        "JOIN shm_async.regions ON id = region WHERE name = %s"
    )
    async with open_one() as region:
        async with region.write_lock() as view:
            view[0] = 1
        assert database.sql(count, region.name) == [(1,)]
        database.sql("UPDATE shm_async.writers SET stored_at = now() - interval '2 days'")
    async with open_one():
        assert database.sql(count, region.name) == [(0,)]


# ---- poolers --------------------------------------------------------------------------------


def another_pid(answer: bytes) -> bytes:
    """What a pooler says: the pid in BackendKeyData is its own."""
    at = answer.find(b"K\0\0\0")
    return answer if at < 0 else answer[: at + 7] + bytes([answer[at + 7] ^ 1]) + answer[at + 8 :]


async def test_a_pooler_is_refused_unless_it_keeps_sessions(address: str, database: Server):
    if not database.ours:
        pytest.skip("a proxy needs a server on this host")
    proxy = Proxy(database.port, change=another_pid)
    name = address.rpartition("#")[2]
    try:
        with pytest.raises(RegionServerError, match="pooler"):
            await enter(f"{database.url_by(proxy.port)}#{name}")
        await enter(f"{database.url_by(proxy.port)}#{name}", pooler="session")
    finally:
        proxy.close()


# ---- use ------------------------------------------------------------------------------------


async def test_a_region_has_to_be_entered(open_one: OpenOne):
    region = open_one()
    for use in (region.read_lock().acquire, region.snapshot_async, region.wait_changed):
        with pytest.raises(RuntimeError, match="was not entered"):
            await use()


def test_a_region_has_to_be_entered_by_threads(open_one: OpenOne):
    with pytest.raises(RuntimeError, match="was not entered"):
        with open_one().read_lock():
            pass


async def test_sync_calls_in_a_coroutine_name_the_others(open_one: OpenOne):
    async with open_one() as region:
        hold = region.write_lock()
        await hold.acquire()
        for call in (hold.release, hold.downgrade):
            with pytest.raises(RuntimeError, match=rf"await hold\.{call.__name__}_async\(\)"):
                call()
        await hold.release_async()
        with pytest.raises(RuntimeError, match="async with"):
            with region:
                pass
        with pytest.raises(RuntimeError, match="async with"):
            with region.read_lock():
                pass
        with pytest.raises(RuntimeError, match="unlink_async"):
            region.unlink()


async def test_a_timeout_is_not_for_coroutines(open_one: OpenOne):
    async with open_one() as region:
        with pytest.raises(TypeError, match="fail_after"):
            async with region.read_lock(timeout=1):
                pass


async def test_what_is_not_held_cannot_be_released(open_one: OpenOne):
    async with open_one() as region:
        hold = region.write_lock()
        for call in (hold.release_async, hold.downgrade_async):
            with pytest.raises(RuntimeError, match="not held"):
                await call()
        with pytest.raises(RuntimeError, match="not held"):
            _ = hold.view
        async with hold:
            with pytest.raises(RuntimeError, match="in use"):
                await hold.acquire()
        async with region.read_lock() as view:
            with pytest.raises(TypeError, match="read-only"):
                view[0] = 1


async def test_nobody_waits_for_a_change_with_a_lock(open_one: OpenOne):
    async with open_one() as region, region.read_lock():
        with pytest.raises(RuntimeError, match="holds a lock"):
            await region.wait_changed()
        with pytest.raises(RuntimeError, match="holds a lock"):
            await region.unlink_async()


async def test_a_password_stands_in_no_repr(address: str, database: Server):
    region: Any = open_region(address, 4, dtype="uint64")
    password = psycopg.conninfo.conninfo_to_dict(database.url)["password"]
    async with region:
        shown = repr(region) + repr(vars(region)) + repr(region.write_lock())
        assert str(password) not in shown
