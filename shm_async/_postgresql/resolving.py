"""Addresses of hosts, each looked up in a thread of its own: nothing can interrupt a look-up.

So a look-up that hangs holds up nobody else, in a pool of threads or in the event loop. A caller
that gives up leaves the thread to itself; one that asks again for the same name joins it.
"""

import os
import socket
import threading
from contextlib import suppress

from .._lock.loops import Loop, adapt, current_loop
from .failures import DisconnectedError
from .signals import Signal, current_asyncio

__all__ = ["Lookup", "look_up"]


class Lookup:
    """One name. `addresses` and `reason`, why there are none, are set once it is `over`.

    Invariant: a look-up is in `running` <=> it is not `over`; `guard` is held to change that.
    """

    guard = threading.Lock()
    running: "dict[str, Lookup]" = {}  # noqa: RUF012  # one for the process

    def __init__(self, host: str) -> None:
        self.host = host
        self.over = False
        self.addresses: list[str] = []
        self.reason = "the look-up of its name takes too long"
        self._waiting: list[tuple[Loop, Signal]] = []

    def run(self) -> None:
        """Look it up. Blocks; in a thread of its own."""
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
            self.addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        except OSError as error:
            self.reason = error.strerror or str(error)
        except UnicodeError as error:
            self.reason = f"no name of a host: {error}"
        with self.guard:
            self.over = True
            self.running.pop(self.host, None)
        for loop, signal in self._waiting:
            with suppress(RuntimeError):  # that loop is over
                loop.call_from_thread(signal.set)

    async def wait(self) -> None:
        """Wait until it is over. Cancellable."""
        signal = Signal(current_asyncio())
        with self.guard:
            if self.over:
                return
            self._waiting.append((adapt(current_loop()), signal))
        await signal.wait()


def look_up(host: str) -> Lookup:
    """Begin to look a name up, unless a thread does so already. Never blocks.

    Raises:
        DisconnectedError: no thread can be had.
    """
    with Lookup.guard:
        found = Lookup.running.get(host)
        if found is None:
            found = Lookup(host)
            thread = threading.Thread(target=found.run, name=f"shm_async {host}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise DisconnectedError(
                    f"the database cannot be reached: no thread to look up {host!r}: {error}"
                ) from None
            Lookup.running[host] = found
        return found


def _after_fork_in_child() -> None:
    """Forget the threads, which the child has not."""
    Lookup.guard = threading.Lock()
    Lookup.running = {}


os.register_at_fork(after_in_child=_after_fork_in_child)
