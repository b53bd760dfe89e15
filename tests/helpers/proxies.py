"""A proxy between a client and a server, which tests tell to lose what they wish."""

import contextlib
import socket
import threading
from collections.abc import Callable

__all__ = ["Proxy"]

Change = Callable[[bytes], bytes]


class Proxy:
    """Forwards each connection to a port of this host, until it is told otherwise.

    `answers` and `requests` say whether it forwards what comes from the server and from the
    client; what it does not forward is thrown away, as by a network that is cut. `change` may
    change what the server says.
    """

    def __init__(self, port: int, change: Change | None = None) -> None:
        self._to = port
        self._change = change
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.answers = self.requests = True
        self.heard = threading.Condition()  # notified when something was thrown away
        self.thrown = b""
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    client.close()
                    continue
                self._pairs.append((client, server))
                self._start(self._pump, client, server, True)
                self._start(self._pump, server, client, False)

    def _pump(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (self.requests if asks else self.answers):
                    with self.heard:
                        self.thrown += data
                        self.heard.notify_all()
                    continue
                target.sendall(data if asks or self._change is None else self._change(data))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def black_hole(self) -> None:
        """Throw away all, in both directions; connections stay."""
        self.answers = self.requests = False

    def wait_until_thrown(self, seconds: float = 10) -> None:
        """Wait until something was thrown away."""
        with self.heard:
            assert self.heard.wait_for(lambda: self.thrown, seconds), "nothing came"

    def cut(self) -> None:
        """End all connections; new ones are accepted."""
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def forward(self) -> None:
        """Forward all again."""
        self.answers = self.requests = True

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        for pair in self._pairs:
            for each in pair:
                each.close()
