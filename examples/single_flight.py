"""One worker fills a cache entry, all others wait for it: Starlette under uvicorn, four processes.

    make example NAME=single_flight
    for i in $(seq 20); do curl -s localhost:8000/weather/berlin & done; wait

The twenty answers are the same one: a single request went to the slow service behind. An answer
is kept for five seconds.

Use it when many requests ask for the same expensive answer at the same time, and each worker
would compute it. Do not use it for many thousand different entries (each is a region of its own),
or for answers that may be computed twice: a cache in each worker is simpler then.

The write lock of an entry is what makes one worker fill it. A worker that fails, or is killed,
gives the lock back, and the next one that waits tries for itself.
"""

import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shm_async import Region

CITIES = ("berlin", "paris", "atlantis")
KEPT = 5.0  # seconds
PATIENCE = 10.0  # seconds that a fill may take
SLOW = float(os.environ.get("SINGLE_FLIGHT_SLOW", "0.5"))  # seconds that the service behind takes
HEAD = struct.Struct("dQQ")  # good until (monotonic seconds), length of the answer, fills so far
SIZE = 64 * 1024  # bytes


class Entry:
    """A cache entry in shared memory."""

    def __init__(self, name: str) -> None:
        # "ignore": the head is stored last, so a killed worker leaves an entry that is not good
        self.region = Region.open(name, SIZE, on_owner_death="ignore", unlink="last")

    async def get(self, fill: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer. If there is none, one caller of all workers waits for `fill`."""
        async with self.region.read_lock() as view:  # waits while another worker fills it
            if answer := self.good(view):
                return answer
        async with self.region.write_lock() as view:
            if answer := self.good(view):  # another worker was first
                return answer
            with anyio.fail_after(PATIENCE):
                answer = await fill()
            until, _, fills = HEAD.unpack_from(view)
            HEAD.pack_into(view, 0, 0.0, 0, fills + 1)  # not good while it is written
            view[HEAD.size : HEAD.size + len(answer)] = answer
            until = time.monotonic() + KEPT
            HEAD.pack_into(view, 0, until, len(answer), fills + 1)
            return answer

    def good(self, view: memoryview) -> bytes | None:
        until, length, _ = HEAD.unpack_from(view)
        if until <= time.monotonic():
            return None
        return bytes(view[HEAD.size : HEAD.size + length])


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, dict[str, Entry]]]:
    prefix = os.environ.get("SINGLE_FLIGHT_REGION", "single-flight")
    async with AsyncExitStack() as stack:
        entries = {city: Entry(f"{prefix}-{city}") for city in CITIES}
        for entry in entries.values():
            await stack.enter_async_context(entry.region)
        yield {"entries": entries}


async def slow_service(city: str) -> bytes:
    """What is too expensive to be asked by each worker."""
    await anyio.sleep(SLOW)
    if city == "atlantis":
        raise ConnectionError("no station there")
    return f"fine in {city}, says worker {os.getpid()} at {time.time():.2f}\n".encode()


async def weather(request: Request) -> Response:
    city = request.path_params["city"]
    if city not in CITIES:
        raise HTTPException(404)
    try:
        answer = await request.state.entries[city].get(lambda: slow_service(city))
    except (ConnectionError, TimeoutError) as error:
        raise HTTPException(502, f"{error}\n") from error
    return Response(answer, media_type="text/plain")


app = Starlette(lifespan=lifespan, routes=[Route("/weather/{city}", weather)])

if __name__ == "__main__":
    uvicorn.run(
        "single_flight:app", workers=4, port=int(os.environ.get("PORT", "8000")), access_log=False
    )
