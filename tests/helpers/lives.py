"""What exists, and children that come and go."""

import os
import signal
from collections.abc import Callable

from peers import segment_of


def exists(address: str | int) -> bool:
    if isinstance(address, int):
        return segment_of(address) is not None
    return os.path.exists(f"/dev/shm/{address}")


class Child:
    """A forked child that does one thing, tells, and waits to be told to end.

    A block kills it if nobody has ended it by then, as after a failure: it would keep open what it
    inherited, such as the pipes of other helpers.
    """

    def __init__(self, do: Callable[[], object]) -> None:
        self.ended = False
        told, self._tell = os.pipe()
        self._hear, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._tell)
                self.kept = do()  # alive until the end
                os.write(say, b".")
                os.read(told, 1)
                code = 0
            finally:
                os._exit(code)
        os.close(told)
        os.close(say)
        assert os.read(self._hear, 1) == b".", "the child failed"

    def end(self, number: int = 0) -> None:
        """Let it end, or kill it."""
        self.ended = True
        if number:
            os.kill(self.pid, number)
        os.close(self._tell)
        os.close(self._hear)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == -number

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            self.end(signal.SIGKILL)
