"""Names of hosts are looked up without blocking the loop, several of them, and in libpq's order."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from databases import INTERVAL, Server
from psycopg.conninfo import conninfo_to_dict
from waits import until, wait_until

from shm_async import RegionServerError, open_region
from shm_async._postgresql.address import Terms
from shm_async._postgresql.conninfo import prepare, read
from shm_async._postgresql.resolving import Lookup

pytestmark = pytest.mark.once

TERMS = Terms()


class Resolver:
    """What stands in for the system's. A name of `slow` gets no answer until `answer` is set."""

    def __init__(self) -> None:
        self.known = {
            "one.test": ["192.0.2.1"],
            "two.test": ["192.0.2.2", "2001:db8::2", "192.0.2.2"],
            "here.test": ["127.0.0.1"],
            "slow.test": ["192.0.2.9"],
        }
        self.asked: list[str] = []
        self.answer = threading.Event()

    def getaddrinfo(self, host: str, port: object, **_options: Any) -> list[Any]:
        self.asked.append(host)
        if host == "slow.test":
            assert self.answer.wait(30)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in self.known[host]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    for variable in ("PGHOST", "PGHOSTADDR", "PGPORT"):
        monkeypatch.delenv(variable, raising=False)
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.answer.set()
    wait_until(lambda: not Lookup.running)


async def prepared(url: str) -> dict[str, Any]:
    """What libpq gets of hosts, addresses and ports."""
    found = conninfo_to_dict((await prepare(read(url), TERMS)).decode())
    return chosen(found)


def chosen(found: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty throughout: the default."""
    names = ("host", "hostaddr", "port")
    return {name: found[name] for name in names if found.get(name, "").strip(",")}


@pytest.mark.parametrize(
    ("hosts", "host", "hostaddr", "port"),
    [
        ("one.test", "one.test", "192.0.2.1", None),
        ("two.test:7", "two.test,two.test", "192.0.2.2,2001:db8::2", "7"),
        ("one.test,two.test", "one.test,two.test,two.test", "192.0.2.1,192.0.2.2,2001:db8::2",
         None),
        ("two.test:7,one.test:8", "two.test,two.test,one.test", "192.0.2.2,2001:db8::2,192.0.2.1",
         "7,7,8"),
        ("one.test:7,two.test", "one.test,two.test,two.test", "192.0.2.1,192.0.2.2,2001:db8::2",
         "7,,"),
        ("192.0.2.5,one.test", "192.0.2.5,one.test", ",192.0.2.1", None),
        ("[::1]:7,one.test:8", "::1,one.test", ",192.0.2.1", "7,8"),
        ("%2Frun,one.test", "/run,one.test", ",192.0.2.1", None),
        ("none.test:7,one.test:8", "one.test", "192.0.2.1", "8"),
        ("none.test:7,%2Frun:8", "/run", "", "8"),
        ("one.test,unasked.test", "one.test,unasked.test", ",192.0.2.4", None),
    ],
)  # fmt: skip
async def test_each_name_gets_its_addresses_where_libpq_would_try_them(
    resolver: Resolver, hosts: str, host: str, hostaddr: str, port: str | None
):
    given = "?hostaddr=,192.0.2.4" if "unasked" in hosts else ""
    found = await prepared(f"postgresql://{hosts}/{given}")
    if given:
        assert resolver.asked == ["one.test"]
        hostaddr = "192.0.2.1,192.0.2.4"
    assert found == chosen({"host": host, "hostaddr": hostaddr, "port": port or ""})


@pytest.mark.parametrize(
    "hosts", ["192.0.2.5", "%2Frun", "[::1],192.0.2.5:8", "a.test:1,b.test:2,c.test:3?port=1,2"]
)
async def test_what_is_no_name_or_makes_no_sense_is_left_to_libpq(resolver: Resolver, hosts: str):
    place, _, options = hosts.partition("?")
    url = f"postgresql://{place}/?{options}"
    assert await prepared(url) == chosen(conninfo_to_dict(url))
    assert resolver.asked == []


async def test_hosts_of_the_environment_are_looked_up_too(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PGHOST", "two.test,one.test")
    monkeypatch.setenv("PGPORT", "7,8")
    assert await prepared("postgresql:///") == {
        "host": "two.test,two.test,one.test",
        "hostaddr": "192.0.2.2,2001:db8::2,192.0.2.1",
        "port": "7,7,8",
    }


async def test_hosts_of_which_none_has_an_address_are_named(resolver: Resolver):
    with pytest.raises(RegionServerError, match=r"'no\.test' has no address.*'nor\.test' has no"):
        await prepared("postgresql://no.test,nor.test/")


# ---- slow answers ----------------------------------------------------------------------------


async def test_a_slow_answer_holds_up_nobody_else_and_is_waited_for_by_one_thread(
    resolver: Resolver,
):
    found: list[dict[str, Any]] = []

    async def ask() -> None:
        found.append(await prepared("postgresql://slow.test/"))

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as impatient:
            impatient.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            impatient.cancel_scope.cancel()
        for _ in range(3):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert (await prepared("postgresql://one.test/"))["hostaddr"] == "192.0.2.1"
        assert resolver.asked == ["slow.test", "one.test"]
        assert found == []
        resolver.answer.set()
    assert [each["hostaddr"] for each in found] == ["192.0.2.9"] * 3


async def test_a_host_whose_answer_is_slow_is_left_out_in_time_to_try_the_next(resolver: Resolver):
    with anyio.fail_after(3):
        found = await prepared("postgresql://slow.test:7,one.test:8/")
    assert found == {"host": "one.test", "hostaddr": "192.0.2.1", "port": "8"}


async def test_one_that_is_alone_is_an_error_that_says_so(resolver: Resolver):
    with pytest.raises(RegionServerError, match=r"'slow\.test' .* takes too long"):
        with anyio.fail_after(3):
            await prepared("postgresql://slow.test/")


def test_a_child_looks_up_by_itself(resolver: Resolver):
    """The thread that its parent waits for is none of the child's."""

    async def ask() -> None:
        with anyio.move_on_after(0.05), pytest.raises(RegionServerError):
            await prepared("postgresql://slow.test/")

    anyio.run(ask)
    assert list(Lookup.running) == ["slow.test"]
    pid = os.fork()
    if pid == 0:
        os._exit(0 if not Lookup.running and Lookup.guard.acquire(blocking=False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---- a real server ---------------------------------------------------------------------------


@pytest.fixture
def by_name(database: Server, address: str) -> Callable[[str], str]:
    """The address of the test's region, at other hosts."""
    if not database.ours:
        pytest.skip("needs a server on this host")
    return lambda hosts: address.replace(f"127.0.0.1:{database.port}", hosts)


async def test_a_region_is_reached_at_the_first_host_that_answers(
    resolver: Resolver, database: Server, by_name: Callable[[str], str]
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    address = by_name(f"none.test:1,here.test:{closed},here.test:{database.port}")
    async with open_region(address, 4, dtype="uint64") as region:
        async with region.write_lock() as view:
            view[0] = 7
    async with open_region(by_name(f"here.test:{database.port}"), 4, dtype="uint64") as region:
        assert (await region.snapshot_async())[0] == 7
    assert resolver.asked.count("here.test") > 1


async def test_the_loop_goes_on_while_a_region_waits_for_the_address_of_its_host(
    resolver: Resolver, database: Server, by_name: Callable[[str], str]
):
    resolver.known["slow.test"] = ["127.0.0.1"]
    options = {"check_interval": INTERVAL, "connect_timeout": 20.0}
    region = open_region(by_name(f"slow.test:{database.port}"), 4, dtype="uint64", **options)
    entered = anyio.Event()

    async def enter() -> None:
        async with region:
            entered.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        await until(lambda: resolver.asked)
        await anyio.wait_all_tasks_blocked()
        assert not entered.is_set()
        resolver.answer.set()
    assert entered.is_set()
    assert resolver.asked == ["slow.test"]
