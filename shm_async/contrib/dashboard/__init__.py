"""A live page about the regions of this host (extra ``[dashboard]``), to be mounted or run.

In an app, or by itself::

    app.mount("/shm", dashboard())                      # an ASGI app
    python -m shm_async.contrib.dashboard counters      # http://127.0.0.1:8765/

It only reads. It shows the data of regions to everybody who can reach it, and asks nobody for a
password: on its own it listens on this machine alone; mounted, it is as open as the app is.
"""

from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from ._feed import Feed

__all__ = ["dashboard"]

STATIC = Path(__file__).parent / "static"  # in a wheel some files have been packed by setup.py

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def dashboard(names: Sequence[str] = (), *, shared: str | None = None) -> Starlette:
    """An ASGI app: one page of these regions, live.

    Never blocks, and opens nothing before somebody looks. While a region is chosen on a page it is
    attached for reading, so with ``unlink="last"`` it stays for that long. A forked child may
    serve it, too.

    Args:
        names: patterns of the regions to show, as a shell has them; none: all of this package.
        shared: the one table of ``RegionCollector(shared=...)`` whose figures are shown; None: all
            tables of this host.

    It raises nothing; the page tells what it cannot show.
    """
    feed = Feed(tuple(names), shared)

    async def page(request: Request) -> Response:
        if not request.url.path.endswith("/"):  # mounted: the files stand below it
            return Response(status_code=307, headers={"Location": request.url.path + "/"})
        return await files.get_response("index.html", request.scope)

    async def events(request: Request) -> Response:
        return Events(feed, request.query_params.get("region"))

    files = Files(directory=STATIC)
    app = Starlette(
        routes=[Route("/", page), Route("/events", events), Mount("/static", files)],
    )
    app.state.feed = feed
    return app


class Events(Response):
    """Server-sent events for one page, until it goes away."""

    def __init__(self, feed: Feed, chosen: str | None) -> None:
        super().__init__(media_type="text/event-stream", headers=HEADERS)
        del self.headers["Content-Length"]
        self._feed = feed
        self._chosen = chosen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the page goes away. Waits in the loop; cancellable."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)

        async def tell(event: str) -> None:
            body = event.encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await self._feed.tell_all(self._chosen, tell)
            group.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})


class Files(StaticFiles):
    """The files of the page, with the headers of the page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file. Waits for the disk; can be cancelled. Raises HTTPException: there is none."""
        packed = f"{path}.gz"
        if not (STATIC / packed).exists():
            response = await super().get_response(path, scope)
            response.headers.update(HEADERS)
            return response
        response = await super().get_response(packed, scope)
        response.headers.update(HEADERS)
        response.headers["Content-Type"] = guess_type(path)[0] or "text/plain"
        response.headers["Content-Encoding"] = "gzip"  # each browser knows it
        return response
