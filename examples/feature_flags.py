"""Feature flags that every worker sees at once: Quart under granian, three processes.

    make example NAME=feature_flags
    curl localhost:8000/?user=ann                           # which features ann has
    curl -X PUT "localhost:8000/flags/dark_mode?percent=50" # for half of the users
    curl -N localhost:8000/events                           # hears of each change, in every worker

Use it for settings that each request reads and somebody changes now and then: a request costs a
copy of a few bytes, without a lock, a cache or a round trip. Do not use it as the place where
the settings are kept: shared memory goes with the host. Load them from there at the start.
"""

import json
import os
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from pathlib import Path

from granian.constants import Interfaces
from granian.server import Server
from quart import Quart, Response, abort, request

from shm_async import Region, RegionNotFoundError

NAME = os.environ.get("FEATURE_FLAGS_REGION", "feature-flags")
FLAGS = {"new_checkout": 0, "dark_mode": 100, "fast_search": 10}  # percent of users, at first

app = Quart(__name__)
region: Region


@app.while_serving
async def attached() -> AsyncGenerator[None, None]:
    """Attach in each worker; whichever is first stores the percentages."""
    global region
    # "ignore": each flag is one byte, so there is no half-written one
    with Region.open(NAME, 1 + len(FLAGS), on_owner_death="ignore") as region:
        async with region.write_lock() as view:
            if not view[0]:
                view[1:] = bytes(FLAGS.values())
                view[0] = 1  # stored
        yield


def percentages() -> dict[str, int]:
    """As they are at this moment. Takes no lock while nobody writes, and never a torn copy."""
    return dict(zip(FLAGS, region.snapshot()[1:], strict=True))


@app.get("/")
async def features() -> dict[str, object]:
    user = request.args.get("user", "")
    on = {
        # the same users each time, and others for each flag
        flag: zlib.crc32(f"{flag}/{user}".encode()) % 100 < percent
        for flag, percent in percentages().items()
    }
    return {"user": user, "on": on, "worker": os.getpid()}


@app.put("/flags/<flag>")
async def change(flag: str) -> dict[str, int]:
    percent = request.args.get("percent", -1, type=int)
    if flag not in FLAGS or not 0 <= percent <= 100:
        abort(400)
    async with region.write_lock() as view:
        view[1 + list(FLAGS).index(flag)] = percent
    return percentages()


@app.get("/events")
async def events() -> Response:
    """Server-sent events: the percentages now, and after each change in any worker."""

    async def stream() -> AsyncIterator[bytes]:
        changes = region.changes()  # made before the first look, so no change is missed
        yield event()
        async for _ in changes:
            yield event()

    response = Response(stream(), content_type="text/event-stream")
    response.timeout = None
    return response


def event() -> bytes:
    return f"data: {json.dumps({'percent': percentages(), 'worker': os.getpid()})}\n\n".encode()


def main() -> None:
    server = Server(
        "feature_flags:app",
        port=int(os.environ.get("PORT", "8000")),
        interface=Interfaces.ASGI,
        workers=3,
        working_dir=Path(__file__).parent,
        respawn_failed_workers=True,
        workers_kill_timeout=1,  # seconds, for workers that have event streams open
        log_access=False,
    )
    try:
        server.serve()
    finally:  # not by the last worker, which may have been killed
        with suppress(RegionNotFoundError), Region.attach(NAME) as region:
            region.unlink()


if __name__ == "__main__":
    main()
