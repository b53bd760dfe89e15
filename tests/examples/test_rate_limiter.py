"""The rate limiter: exact when a worker is killed, and when workers never pause."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from services import EXAMPLES, at_once, entries, load, serving

from shm_async import Region

pytestmark = [pytest.mark.once, pytest.mark.timeout(30)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the clients'


def tokens(limit: ModuleType, seconds: float) -> float:
    """How many a client has had after so many seconds, if it always asked."""
    return limit.BURST + seconds * 1e9 / limit.PERIOD


def fewest(limit: ModuleType, drained: tuple[float, int], until: float) -> float:
    """How many it has taken at least, if it was refused then, after so many, and at last."""
    empty, taken = drained
    return taken + (until - empty) * 1e9 / limit.PERIOD - 1


async def test_the_rate_limit_is_exact_in_all_workers_also_when_one_is_killed(
    name: str, tmp_path: Path
):
    limit = load("rate_limiter")
    seen: Counter[object] = Counter()
    workers: Counter[int] = Counter()

    with serving("rate_limiter", name, tmp_path / "log") as service:
        async with service.client() as http:

            async def ask() -> None:
                try:
                    answer = await http.get("/", headers={"X-Api-Key": "me"})
                except httpx.TransportError:
                    seen["failed"] += 1
                    return
                seen[answer.status_code] += 1
                if answer.status_code == 200:
                    workers[answer.json()["worker"]] += 1
                    if workers.total() == limit.BURST + 1:
                        os.kill(max(workers), signal.SIGKILL)
                else:
                    assert answer.headers["retry-after"] == "1"
                    drained.append((time.monotonic(), seen[200]))

            drained: list[tuple[float, int]] = []  # before, it was full while workers started
            before_the_first = time.monotonic()
            await ask()
            while workers.total() < limit.BURST + 6:
                await at_once(8, ask, 5)
            refused = seen[429]
            while seen[429] == refused:
                before_the_last = time.monotonic()
                await ask()
            least = fewest(limit, drained[0], before_the_last) - seen["failed"]
            most = tokens(limit, time.monotonic() - before_the_first)
            other = await http.get("/", headers={"X-Api-Key": "another"})
        log = service.stop()
    assert other.status_code == 200
    assert len(workers) > 1
    assert least <= seen[200] <= most, log
    assert set(seen) <= {200, 429, "failed"}
    assert entries(name) == []


# a worker, without its server
PROGRAM = """
import asyncio, os, sys
from types import SimpleNamespace
import rate_limiter
from shm_async import Region

rate_limiter.BURST, rate_limiter.PERIOD = 10**6, 10**12  # no token comes back meanwhile

async def main(region):
    state = SimpleNamespace(region=region, key=b"key")
    request = SimpleNamespace(client=None, headers={"x-api-key": "me"}, state=state)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(5000):
        await rate_limiter.limited(request)

asyncio.run(main(Region.attach(sys.argv[1])))
"""


def test_no_token_is_given_twice_by_workers_that_never_pause(name: str):
    limit = load("rate_limiter")
    with Region.create(name, limit.LENGTH, dtype="int64") as region:
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, name],
                cwd=EXAMPLES,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        for worker in workers:
            assert worker.stdout.readline() == b"ready\n"
        now = time.monotonic_ns()
        for worker in workers:
            worker.stdin.write(b"go\n")
            worker.stdin.close()
        for worker in workers:
            worker.stdout.close()
            assert worker.wait(20) == 0
        full_at = max(region.buffer[limit.TABLE + 1 :: 2])
    assert round((full_at - now) / 10**12) == 10_000


def test_a_full_table_of_the_rate_limiter_lets_no_new_client_in_until_a_bucket_is_full(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    limit = load("rate_limiter")
    monkeypatch.setattr(limit, "SLOTS", limit.PLACES)
    view = memoryview(bytearray(8 * (limit.TABLE + 2 * limit.PLACES))).cast("q")
    now = 10**12
    for client in range(1, limit.PLACES + 1):
        assert limit.take(view, client * 7919, now) == 0
    assert limit.take(view, 5, now) == limit.PERIOD
    assert limit.take(view, 5, now + limit.PERIOD) == 0
    assert [limit.take(view, 7919 * 16, now) for _ in range(20)] == [0] * 19 + [limit.PERIOD]
