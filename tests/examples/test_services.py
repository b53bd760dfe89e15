"""The example services under their servers: loaded, with a worker killed in the middle."""

import json
import os
import signal
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from services import Service, at_once, entries, load, serving
from sessions import processes_of
from waits import until

from shm_async import Region, inspect

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(30)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the clients'


async def until_attached(name: str, processes: int) -> None:
    with anyio.fail_after(20):
        while sum(len(info.processes) for info in inspect(name)) < processes:
            await anyio.sleep(0.01)


async def holder(region: Region) -> int:
    """The pid of the writer who has had the lock for a while."""
    with anyio.fail_after(20):
        while True:
            for each in region.holders():
                if each.pid is not None and (each.since or 0) > 0.01:
                    return each.pid
            await anyio.sleep(0.005)


# ---- web_counter -------------------------------------------------------------------------


async def test_the_web_counter_counts_what_was_answered_also_when_a_worker_is_killed(
    name: str, tmp_path: Path
):
    counts: list[int] = []
    workers: Counter[int] = Counter()
    lost = 0

    with serving("web_counter", name, tmp_path / "log", path="/count") as service:
        async with service.client() as http:

            async def ask() -> None:
                nonlocal lost
                try:
                    answer = (await http.post("/increment")).json()
                except httpx.TransportError:
                    lost += 1
                    return
                counts.append(answer["count"])
                workers[answer["worker"]] += 1
                if len(counts) == 60:
                    os.kill(answer["worker"], signal.SIGKILL)

            with anyio.fail_after(20):
                while len(workers) < 2 or len(counts) < 200:
                    await at_once(8, ask, 5)
            count = (await http.get("/count")).json()["count"]
        log = service.stop()
    assert len(set(counts)) == len(counts)
    assert len(counts) <= count <= len(counts) + lost, log
    assert entries(name) == []


# ---- single_flight ---------------------------------------------------------------------------


def serving_weather(name: str, log: Path) -> AbstractContextManager[Service]:
    """Each fill takes so long that a kill comes before it is done."""
    path = "/weather/nowhere"
    return serving("single_flight", name, log, path=path, SINGLE_FLIGHT_SLOW="3")


async def test_one_worker_fills_a_cache_entry_and_the_next_one_does_if_it_is_killed(
    name: str, tmp_path: Path
):
    fills = load("single_flight").HEAD.unpack_from
    bodies: Counter[str] = Counter()
    lost = 0

    with serving_weather(name, tmp_path / "log") as service:
        async with service.client() as http:

            async def ask() -> None:
                nonlocal lost
                try:
                    answer = await http.get("/weather/berlin")
                    assert answer.status_code == 200
                    bodies[answer.text] += 1
                except httpx.TransportError:
                    lost += 1

            with Region.attach(f"{name}-berlin", on_owner_death="ignore") as region:
                await until_attached(region.name, 5)  # we are one of them
                async with anyio.create_task_group() as group:
                    group.start_soon(ask)
                    victim = await holder(region)
                    for _ in range(39):  # one by one, so that all workers get some
                        group.start_soon(ask)
                        await anyio.sleep(0.005)
                    os.kill(victim, signal.SIGKILL)
                assert bodies.total() + lost == 40
                assert len(bodies) == 1
                assert str(victim) not in next(iter(bodies))
                assert fills(region.buffer)[2] == 1

            async def ask_in_vain() -> None:
                answer = await http.get("/weather/atlantis")
                assert (answer.status_code, answer.text) == (502, "no station there\n")

            began = time.monotonic()
            await at_once(2, ask_in_vain)  # each tries for itself, one after the other
            assert time.monotonic() - began > 5.9
        service.stop()
    assert 0 < lost < 40
    assert entries(name) == []


# ---- feature_flags ---------------------------------------------------------------------------


class Listeners:
    """What three open event streams heard of one flag."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.told: list[int] = []

    async def listen(self) -> None:
        async with self.http.stream("GET", "/events") as answer:
            async for line in answer.aiter_lines():
                self.note(line)

    def note(self, line: str) -> None:
        if line:
            self.told.append(json.loads(line.removeprefix("data: "))["percent"]["dark_mode"])

    async def heard(self, percent: int) -> None:
        with anyio.fail_after(20):
            while self.told.count(percent) < 3:
                await anyio.sleep(0.005)


async def change(http: httpx.AsyncClient, percent: int) -> None:
    answer = await http.put("/flags/dark_mode", params={"percent": percent})
    assert answer.json()["dark_mode"] == percent


async def test_all_workers_see_a_changed_flag_at_once_and_event_streams_hear_of_it(
    name: str, tmp_path: Path
):
    workers: Counter[int] = Counter()

    with serving("feature_flags", name, tmp_path / "log") as service:
        async with service.client() as http, anyio.create_task_group() as group:
            wanted = {"new_checkout": False, "dark_mode": True, "fast_search": False}

            async def ask() -> None:
                answer = (await http.get("/", params={"user": "ann"})).json()
                assert answer["on"] == wanted
                workers[answer["worker"]] += 1

            await until_attached(name, 3)
            listeners = Listeners(http)
            for _ in range(3):
                group.start_soon(listeners.listen)
            await listeners.heard(100)
            for percent, on in [(0, False), (100, True), (30, False)]:
                await change(http, percent)
                wanted["dark_mode"] = on
                await at_once(8, ask, 5)
            await listeners.heard(30)
            assert len(workers) > 1
            assert (await http.put("/flags/dark_mode?percent=101")).status_code == 400
            group.cancel_scope.cancel()
        killed = max(workers)
        os.kill(killed, signal.SIGKILL)  # until it is dead it may take another connection
        await until(lambda: killed not in processes_of(service.process.pid))
        again = httpx.Client(transport=httpx.HTTPTransport(retries=5), base_url=service.url)
        with again as http:
            for _ in range(10):
                assert http.get("/?user=ann").json()["on"]["dark_mode"] is False
            with http.stream("GET", "/events") as answer:
                assert next(answer.iter_lines()).startswith("data: ")
                service.stop()  # kills the worker that has the stream
    assert entries(name) == []


# ---- flask_counter ---------------------------------------------------------------------------


async def test_threads_of_several_workers_count_without_a_gap_also_when_one_is_killed(
    name: str, tmp_path: Path
):
    visits: list[int] = []
    workers: Counter[int] = Counter()
    lost = 0

    with serving("flask_counter", name, tmp_path / "log", path="/visits") as service:
        async with service.client() as http:

            async def ask() -> None:
                nonlocal lost
                try:
                    answer = (await http.get("/")).json()
                except httpx.TransportError:
                    lost += 1
                    return
                visits.append(answer["visit"])
                workers[answer["worker"]] += 1
                if len(visits) == 100:
                    os.kill(answer["worker"], signal.SIGKILL)

            with anyio.fail_after(20):
                while len(workers) < 3 or len(visits) < 300:
                    await at_once(16, ask, 5)
            last = (await http.get("/visits")).json()["visit"]
        log = service.stop()
    assert len(set(visits)) == len(visits)
    assert len(visits) <= last <= len(visits) + lost, log
    assert entries(name) == []


def test_a_counter_goes_on_when_all_of_its_server_was_killed(name: str, tmp_path: Path):
    with Region.create(name, 2, dtype="uint64") as region:
        region.buffer[0] = 41  # what the killed workers left
    with serving("flask_counter", name, tmp_path / "log", path="/visits") as service:
        assert httpx.get(f"{service.url}/").json()["visit"] == 42


# ---- model_weights ---------------------------------------------------------------------------


def check_memory(told: dict[str, Any], size: int) -> None:
    assert (told["version"], told["weights"], len(told["workers"])) == (1, size, 4)
    for sizes in told["workers"].values():  # it is shared, so its share is a quarter
        assert sizes["rss"] - sizes["pss"] > size / 2


async def test_weights_are_once_in_memory_and_swapped_while_all_workers_read(
    name: str, tmp_path: Path
):
    size = 12  # MB
    service = serving(
        "model_weights", name, tmp_path / "log", path="/memory", MODEL_WEIGHTS_MB=str(size)
    )
    seen: Counter[tuple[float, int]] = Counter()
    workers: Counter[int] = Counter()
    lost = 0

    with service as service:
        async with service.client() as http:

            async def ask() -> None:
                nonlocal lost
                try:
                    answer = (await http.get("/predict")).json()
                except httpx.TransportError:
                    lost += 1
                    return
                seen[answer["mean"], answer["version"]] += 1
                workers[answer["worker"]] += 1

            async def until_all_have_answered() -> None:
                workers.clear()
                with anyio.fail_after(20):
                    while len(workers) < 4:
                        await at_once(8, ask, 4)

            await until_all_have_answered()
            check_memory((await http.get("/memory")).json(), size)
            async with anyio.create_task_group() as group:
                group.start_soon(at_once, 4, ask, 20)
                assert (await http.post("/publish")).json() == {"version": 2}
                os.kill(max(workers), signal.SIGKILL)
            await until_all_have_answered()
            assert sorted(entries(name)) == [name, f"{name}-2"]
        log = service.stop()
    assert set(seen) == {(1.0, 1), (2.0, 2)}, log
    assert lost <= 4
    assert entries(name) == []
