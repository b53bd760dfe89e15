"""The same, attached at import: with gunicorn's --preload that is before the workers are forked."""

from asgi import add
from counting import attach
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

region = attach()


class WithRegion:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["region"] = region
        await self.app(scope, receive, send)


app = Starlette(routes=[Route("/", add), Route("/die", add)], middleware=[Middleware(WithRegion)])
