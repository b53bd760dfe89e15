"""The collector for Prometheus, read by the client's own parser."""

import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families as parsed

from shm_async import OwnerDiedError, Region
from shm_async.contrib.prometheus import RegionCollector

pytestmark = pytest.mark.once

WORKER = """
import sys
from shm_async import Region
from shm_async.contrib.prometheus import RegionCollector
name, table, writes = sys.argv[1], sys.argv[2], int(sys.argv[3])
region = Region.attach(name)
collector = RegionCollector([region], shared=table)
for line in sys.stdin:
    for _ in range(writes):
        with region.write_lock(label="worker"):
            pass
    list(collector.collect())
    print("done", flush=True)
"""


def samples(collector: RegionCollector) -> dict[tuple, float]:
    """All that a scrape has: by name and labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parsed(text)
        for sample in family.samples
    }
    assert list(strictly(openmetrics(registry).decode()))
    return found


def value(collector: RegionCollector, metric: str, region: Region, **labels: str) -> float:
    key = (f"shm_async_{metric}", *sorted({"region": region.name, **labels}.items()))
    return samples(collector)[key]


@pytest.fixture
def table(name: str) -> Iterator[str]:
    yield f"{name}.metrics"
    os.unlink(f"/dev/shm/{name}.metrics")


class Worker:
    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def work(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def test_a_region_shows_what_it_counted(region: Region):
    collector = RegionCollector([region])
    with region.write_lock(), pytest.raises(BlockingIOError):
        region.read_lock().acquire_nowait()
    with region.read_lock():
        pass
    with region.write_lock(label='say "checkout"'):
        pass
    assert value(collector, "lock_grants_total", region, kind="write") == 2
    assert value(collector, "lock_grants_total", region, kind="read") == 1
    assert value(collector, "region_bytes", region) == 64
    assert value(collector, "region_generation", region) == region.generation
    assert value(collector, "region_attachments", region) == 1
    assert value(collector, "lock_waiting", region) == 0
    label = {"label": 'say "checkout"'}
    assert value(collector, "label_grants_total", region, kind="write", **label) == 1
    assert value(collector, "lock_hold_seconds_count", region) == 3
    held = value(collector, "label_hold_seconds_sum", region, **label)
    assert 0 < held < value(collector, "lock_hold_seconds_sum", region) < 1
    assert value(collector, "label_hold_seconds_count", region, **label) == 1


def test_an_upgrade_is_a_write_of_its_label(region: Region):
    with region.read_lock(label="checkout"):
        pass
    hold = region.read_lock(label="checkout")
    with hold:
        hold.upgrade_blocking()
    grants = {
        kind: value(
            RegionCollector([region]), "label_grants_total", region, kind=kind, label="checkout"
        )
        for kind in ("read", "write")
    }
    assert grants == {"read": 2, "write": 1}


def test_waits_are_a_cumulative_histogram(region: Region, rival):
    collector = RegionCollector([region])
    assert rival.do("exclusive") == "done"
    with pytest.raises(TimeoutError):
        region.write_lock().acquire_blocking(0.2)
    assert rival.do("unlock") == "done"
    assert value(collector, "lock_wait_seconds_bucket", region, le="0.025") == 0
    assert value(collector, "lock_wait_seconds_bucket", region, le="10.0") == 1
    assert value(collector, "lock_wait_seconds_bucket", region, le="+Inf") == 1
    assert value(collector, "lock_wait_seconds_count", region) == 1
    assert (
        value(collector, "lock_wait_seconds_sum", region) > 0.025
    )  # the wait began a little after
    assert value(collector, "lock_cancelled_total", region) == 1


def test_a_death_is_counted(region: Region):
    pid = os.fork()
    if not pid:
        hold = region.write_lock()
        hold.acquire_blocking()
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(OwnerDiedError), region.read_lock():
        pass
    assert value(RegionCollector([region]), "owner_deaths_total", region) == 1


def test_a_closed_region_keeps_its_counts(region: Region):
    with region.write_lock():
        pass
    region.close()
    found = samples(RegionCollector([region]))
    key = ("shm_async_lock_grants_total", ("kind", "write"), ("region", region.name))
    assert found[key] == 1
    assert not any("generation" in name for name, *_ in found)


def test_processes_are_summed_and_the_dead_are_remembered(region: Region, table: str):
    collector = RegionCollector([region], shared=table)
    workers = [Worker(region.name, table, 3) for _ in range(2)]
    for worker in workers:
        worker.work()
    with region.write_lock():
        pass
    assert value(collector, "lock_grants_total", region, kind="write") == 7
    workers[0].end()
    assert value(collector, "lock_grants_total", region, kind="write") == 7
    workers[0] = Worker(region.name, table, 3)
    workers[0].work()
    assert value(collector, "lock_grants_total", region, kind="write") == 10
    for worker in workers:
        worker.end()
    assert value(collector, "lock_grants_total", region, kind="write") == 10
    assert value(collector, "label_grants_total", region, kind="write", label="worker") == 9
    collector.close()


def test_the_row_of_a_dead_process_is_used_again(region: Region, table: str):
    collector = RegionCollector([region], shared=table, processes=2)
    for _ in range(3):
        worker = Worker(region.name, table, 1)
        worker.work()
        worker.end()
    assert value(collector, "lock_grants_total", region, kind="write") == 3
    collector.close()


def test_a_forked_child_has_a_row_of_its_own(region: Region, table: str):
    collector = RegionCollector([region], shared=table)
    with region.write_lock():
        pass
    assert value(collector, "lock_grants_total", region, kind="write") == 1
    pid = os.fork()
    if not pid:
        with region.write_lock():
            pass
        collector.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert value(collector, "lock_grants_total", region, kind="write") == 2
    collector.close()


def test_a_table_that_is_scribbled_on_does_no_harm(region: Region, table: str):
    collector = RegionCollector([region], shared=table)
    with region.write_lock():
        pass
    assert value(collector, "lock_grants_total", region, kind="write") == 1
    with Region.attach(table) as other, other.write_lock() as view:
        view[0] = 1
        view[3 * 16384 : 3 * 16384 + 6] = b"\1nonse"
        text = zlib.compress(b'{"process":3}')
        view[4 * 16384 : 4 * 16384 + 1 + len(text)] = b"\1" + text
    with region.write_lock():
        pass
    assert value(collector, "lock_grants_total", region, kind="write") == 2
    collector.close()


def test_the_multiprocess_mode_needs_a_table(region: Region, table: str, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/tmp")
    with pytest.raises(ValueError, match="shared="):
        RegionCollector([region])
    RegionCollector([region], shared=table).close()


def test_the_dashboard_for_grafana_asks_for_metrics_that_there_are(region: Region):
    page = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
    if not page.exists():
        pytest.skip("no docs in this tree")
    with region.write_lock(label="x"):
        pass
    known = {name for name, *_ in samples(RegionCollector([region]))}
    asked = set(re.findall(r"\b(shm_async_\w+)\{", page.read_text()))
    assert len(asked) >= 8
    assert asked <= known
