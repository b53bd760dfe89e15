"""`watch`: a line, or a command, for every change."""

import json
import os
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from .. import Region
from .failures import NOT_GRANTED
from .signals import status_of_code
from .using import attached
from .words import printable

__all__ = ["watch"]


def watch(options: Namespace) -> int:
    """Report changes until the region is removed or --timeout passes, or report just one."""
    options.ignore_death = True  # of a writer: it is a change, too
    with _region(options) as region:
        return anyio.run(_watch, region, options)


@contextmanager
def _region(options: Namespace) -> Iterator[Region]:
    """Attach to the region for a block, for reading only if this user may not write to it."""
    try:
        with attached(options, if_unlinked="raise") as region:
            yield region
            return
    except PermissionError:
        pass
    with attached(options, readonly=True, if_unlinked="raise") as region:
        yield region


async def _watch(region: Region, options: Namespace) -> int:
    changes = region.changes()
    while True:
        try:
            with anyio.fail_after(options.timeout):
                generation = await anext(changes)
        except TimeoutError:
            return NOT_GRANTED
        status = _tell(region, generation, options)
        if options.once:
            return status


def _tell(region: Region, generation: int, options: Namespace) -> int:
    command = options.words[1:] if options.words[:1] == ["--"] else options.words
    if command:
        return _run(command, region.name, generation)
    if options.json:
        facts = {"name": region.name, "generation": generation, "writes": generation // 2}
        print(json.dumps({**facts, "time": time.time()}), flush=True)
    else:
        now = time.strftime("%H:%M:%S")
        print(f"{now} {printable(region.name)} {generation // 2} writes", flush=True)
    return 0


def _run(command: list[str], name: str, generation: int) -> int:
    told = {"SHM_ASYNC_NAME": name, "SHM_ASYNC_GENERATION": str(generation)}
    done = subprocess.run(command, env={**os.environ, **told}, check=False)
    return status_of_code(done.returncode)
