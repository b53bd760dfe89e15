"""Readers of one loop: when they join a reader that stays for long, and when they wait for it."""

import time

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from cohorts import queued
from hints import set_hint
from waits import until

from shm_async import Region
from shm_async._lock import members


class Readers:
    """Tasks that read, in a loop where a reader is inside that has been there for long."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.inside = 0
        self.seen: list[int] = []  # by each writer: how many had come in before it
        self._leave = anyio.Event()

    async def read(self) -> None:
        async with self.region.read_lock():
            self.inside += 1
            await self._leave.wait()

    async def write(self) -> None:
        async with self.region.write_lock():
            self.seen.append(self.inside)

    async def stay(self, group: anyio.abc.TaskGroup) -> None:
        group.start_soon(self.read)
        await until(lambda: self.inside == 1)
        self.region._table.cohort.share_until = time.monotonic() - 1

    async def queue(self, group: anyio.abc.TaskGroup, count: int) -> None:
        for _ in range(count):
            group.start_soon(self.read)
        await until(lambda: queued(self.region) == count)

    def leave(self) -> None:
        self._leave.set()


async def test_readers_do_not_wait_for_a_reader_that_stays_if_nobody_else_waits(region: Region):
    readers = Readers(region)
    async with anyio.create_task_group() as group:
        await readers.stay(group)
        set_hint(region, 1)  # until both queue
        await readers.queue(group, 2)
        set_hint(region, 0)
        await until(lambda: readers.inside == 3)
        readers.leave()


async def test_they_do_not_wait_any_more_when_whoever_stood_at_the_gate_has_gone(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(members, "MAX_SHARE", 0.005)
    readers = Readers(region)
    async with anyio.create_task_group() as group:
        await readers.stay(group)
        set_hint(region, 1)
        await readers.queue(group, 1)
        await anyio.sleep(0.05)
        assert readers.inside == 1
        set_hint(region, 0)
        await until(lambda: readers.inside == 2)
        readers.leave()


async def test_they_do_not_pass_a_writer_of_their_loop(
    region: Region, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(members, "MAX_SHARE", 0.005)
    readers = Readers(region)
    async with anyio.create_task_group() as group:
        await readers.stay(group)
        group.start_soon(readers.write)
        await until(lambda: queued(region) == 1)
        group.start_soon(readers.read)
        await until(lambda: queued(region) == 2)
        await anyio.sleep(0.05)
        assert readers.inside == 1
        readers.leave()
    assert readers.seen == [1]


async def test_only_those_before_the_next_writer_are_let_in(region: Region):
    readers = Readers(region)
    async with anyio.create_task_group() as group:
        await readers.stay(group)
        set_hint(region, 1)  # until all queue
        await readers.queue(group, 1)
        for number, task in enumerate((readers.write, readers.read), 2):
            group.start_soon(task)
            await until(lambda number=number: queued(region) == number)
        set_hint(region, 0)
        await until(lambda: readers.inside == 2)
        await anyio.lowlevel.checkpoint()
        assert (queued(region), readers.seen) == (2, [])
        readers.leave()
    assert readers.seen == [2]


async def test_they_wait_where_nobody_at_the_gate_can_be_seen(
    raw: Region, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(members, "MAX_SHARE", 0.005)
    readers = Readers(raw)
    async with anyio.create_task_group() as group:
        await readers.stay(group)
        await readers.queue(group, 1)
        await anyio.sleep(0.05)
        assert readers.inside == 1
        readers.leave()
