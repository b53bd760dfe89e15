"""An ASGI app that attaches when a worker starts, in its lifespan handler."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import sleep
from counting import BOOKED, COUNT, MEANWHILE, attach, perhaps_die
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with attach() as region:
        yield {"region": region}


async def add(request: Request) -> Response:
    async with request.state.region.write_lock() as view:
        seen = view[COUNT]
        await sleep(MEANWHILE)
        view[COUNT] = seen + 1
        perhaps_die(request.url.path)
        view[BOOKED] = seen + 1
    return PlainTextResponse(str(os.getpid()))


app = Starlette(lifespan=lifespan, routes=[Route("/", add), Route("/die", add)])
