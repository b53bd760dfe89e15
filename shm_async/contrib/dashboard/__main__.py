"""``python -m shm_async.contrib.dashboard [NAME ...]``: the page, on this machine alone."""

import argparse
import socket
import sys

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from . import dashboard
from ._feed import Feed

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C. Exits with a message if it cannot listen there."""
    parser = argparse.ArgumentParser("python -m shm_async.contrib.dashboard", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="regions to show; none: all")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="0: any that is free")
    parser.add_argument("--shared", metavar="TABLE", help="figures; none: all that are here")
    options = parser.parse_args(arguments)
    app = dashboard(options.names, shared=options.shared)
    host: str = options.host
    # a page of another site could reach it by a name that leads here
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_names_of(host))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, options.port), family=family)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]  # Python adds the address
        parser.exit(1, f"cannot listen on {host}, port {options.port}: {why}; try --port 0\n")
    with server:
        try:
            print(f"http://{_in_url(host)}:{server.getsockname()[1]}/", flush=True)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            Server(config, app.state.feed).run(sockets=[server])
        except KeyboardInterrupt:  # after a clean end, or before it has begun
            sys.exit(130)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _names_of(host: str) -> list[str]:
    """The host names that a browser may use."""
    if host in ("0.0.0.0", "::"):
        return ["*"]
    names = ["localhost", "127.0.0.1", host, _in_url(host)]
    # older versions of Starlette cut an address at its first colon
    return [*names, "["] if ":" in host else names


class Server(uvicorn.Server):
    """A server that does not wait for pages to go away."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, and then the server. Waits for a second at most; cancellable."""
        self._feed.end()
        await super().shutdown(sockets)


if __name__ == "__main__":
    main()
