"""Another process that locks with flock(2) and knows nothing of us."""

import atexit
import contextlib
import os
import subprocess
import sys
from pathlib import Path


def blocked_in_flock(pid: int) -> bool:
    """Whether a thread of that process stands in the kernel's queue for a flock."""
    rows = Path("/proc/locks").read_text().splitlines()
    return any("->" in row and str(pid) in row.split() for row in rows)


class Rival:
    """Another process that locks the same object with flock(2) and knows nothing of us."""

    PROGRAM = """
import fcntl, os, struct, sys
for line in sys.stdin:
    word, *arguments = line.split()
    if word == "open":
        fd = os.open("/dev/shm/" + line.removeprefix("open ").removesuffix("\\n"), os.O_RDWR)
    elif word == "close":  # frees all that it holds
        os.close(fd)
    elif word == "truncate":
        os.ftruncate(fd, int(arguments[0]))
    elif word == "gate":  # its length is a ticket
        length = int(arguments[0]) if arguments else 1
        what = struct.pack("hhqqi4x", 1, 0, (1 << 62) + 1 - length, length, 0)  # F_WRLCK
        fcntl.fcntl(fd, 37, what)  # F_OFD_SETLK
    elif word == "leave":
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", 2, 0, 0, 0, 0))  # F_UNLCK
    else:
        try:
            fcntl.flock(fd, {"shared": 1, "exclusive": 2, "unlock": 8,
                             "try-shared": 5, "try-exclusive": 6}[word])
        except BlockingIOError:
            print("busy", flush=True)
            continue
    print("done", flush=True)
"""

    def __init__(self, name: str) -> None:
        self.process = _idle.pop() if _idle and _idle_of == [os.getpid()] else self._start()
        self._unanswered = 0
        self._closed = False
        assert self.do(f"open {name}") == "done"

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-S", "-c", self.PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        self._unanswered -= 1
        return answer

    def send(self, words: str) -> None:
        assert self.process.stdin is not None
        self._unanswered += 1
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def do(self, words: str) -> str:
        """Have it done and return "done" or "busy"."""
        self.send(words)
        return self._answer()

    def is_blocked(self) -> bool:
        """Whether it stands in the kernel's queue for the lock."""
        return blocked_in_flock(self.process.pid)

    def finish(self) -> str:
        """Wait for the answer to what was sent."""
        return self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        """End what it holds; its process is kept for the next rival if all is well with it."""
        if self._closed:
            return
        self._closed = True
        try:
            well = not self._unanswered and self.do("close") == "done"
        except BrokenPipeError:  # it was killed
            well = False
        if well:
            _keep(self.process)
        else:
            end(self.process)


# ---- processes kept, as each test would wait for a new one --------------------------------------

_idle: "list[subprocess.Popen[str]]" = []
_idle_of: list[int] = []  # the process that they are children of: a fork inherits this list


def _keep(process: "subprocess.Popen[str]") -> None:
    if _idle_of != [os.getpid()]:
        _idle_of[:] = [os.getpid()]
        _idle.clear()
    _idle.append(process)


def end(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(BrokenPipeError):
        process.communicate(timeout=10)
    process.wait(10)


@atexit.register
def _end_the_idle() -> None:
    if _idle_of == [os.getpid()]:
        while _idle:
            end(_idle.pop())
