"""Several web workers, one counter in shared memory, and no count is lost: Starlette, uvicorn.

    make example NAME=web_counter
    curl -X POST localhost:8000/increment; curl localhost:8000/count; curl localhost:8000/plain

Four worker processes share a region. A handler whose client hangs up while it waits for the lock
counts nothing. `make demo` (web_counter_load.py) sends requests, has clients hang up, and reports.

Use it for numbers that all workers of one host agree on; not for one that must outlive the host.
"""

import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shm_async import Hold, Region

REGION_VARIABLE = "WEB_COUNTER_REGION"  # in the environment: tells the workers its name
MAX_WORKERS = 16
COUNT = 0  # what it is all about
CANCELLED = 1  # waits for the lock that ended because the client had hung up
PIDS = slice(2, 2 + MAX_WORKERS)  # the workers, each at its place
TALLIES = slice(2 + MAX_WORKERS, 2 + 2 * MAX_WORKERS)  # increments that were finished there
LENGTH = TALLIES.stop

plain_count = 0  # the usual mistake: every worker has a variable of its own


def repair(hold: Hold) -> None:
    """Undo what a killed worker had begun. Called with the write lock held."""
    hold.view[COUNT] = sum(hold.view[TALLIES])


def free_place(pids: list[int]) -> int:
    """One that no process has, or has any more: its tally goes on."""
    return next(place for place, pid in enumerate(pids) if not os.path.exists(f"/proc/{pid}"))


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Attach to the region, or create it, and take a place in it. The last worker removes it."""
    name = os.environ.get(REGION_VARIABLE, "web-counter")
    region = Region.open(name, LENGTH, dtype="uint64", on_owner_death=repair, unlink="last")
    async with region:
        async with region.write_lock() as view:
            worker = free_place(view[PIDS].tolist())
            view[PIDS][worker] = os.getpid()
        yield {"region": region, "worker": worker}


@asynccontextmanager
async def cancelled_on_hang_up(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client hangs up; the server does not do that for us."""

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        yield
        group.cancel_scope.cancel()  # the block is done: stop watching


async def increment(request: Request) -> Response:
    region, worker = request.state.region, request.state.worker
    async with cancelled_on_hang_up(request), region.write_lock() as view:
        with anyio.CancelScope(shield=True):  # it is our turn: finish, client or not
            return answer(await add_one(view, worker, meanwhile=checkpoint()))
    async with region.write_lock() as view:  # we get here only if the wait was cancelled
        view[CANCELLED] += 1
    return Response(status_code=499)  # as nginx says: client closed request


async def add_one(view: memoryview, worker: int, meanwhile: Awaitable[object]) -> int:
    """Read, let others run, write: without the lock, increments would get lost."""
    global plain_count
    seen = view[COUNT]
    await meanwhile
    view[COUNT] = seen + 1
    view[TALLIES][worker] += 1
    plain_count += 1
    return int(seen) + 1


async def read(request: Request) -> Response:
    async with request.state.region.read_lock() as view:
        return answer(view[COUNT])


async def read_plain(_request: Request) -> Response:
    return answer(plain_count)


def answer(count: int) -> Response:
    return JSONResponse({"count": count, "worker": os.getpid()})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/increment", increment, methods=["POST"]),
        Route("/count", read),
        Route("/plain", read_plain),
    ],
)

if __name__ == "__main__":
    uvicorn.run("web_counter:app", workers=4, port=int(os.environ.get("PORT", "8000")))
