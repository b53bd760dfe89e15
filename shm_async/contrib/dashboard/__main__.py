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
    """Serve the page until Ctrl-C. Raises OSError: the address is not to be had."""
    parser = argparse.ArgumentParser("python -m shm_async.contrib.dashboard", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="regions to show; none: all")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="0: any that is free")
    parser.add_argument("--shared", metavar="TABLE", help="of RegionCollector(shared=...)")
    options = parser.parse_args(arguments)
    app = dashboard(options.names, shared=options.shared)
    hosts = ["localhost", "127.0.0.1", options.host]
    if options.host in ("0.0.0.0", "::"):
        hosts = ["*"]
    # a page of another site could reach it by a name that leads here
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family) as server:
        print(f"http://{options.host}:{server.getsockname()[1]}/", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        try:
            Server(config, app.state.feed).run(sockets=[server])
        except KeyboardInterrupt:  # after a clean end
            sys.exit(130)


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
