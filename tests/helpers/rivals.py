"""Another process that locks with flock(2) and knows nothing of us."""

import contextlib
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
fd = os.open(sys.argv[1], os.O_RDWR)
print("ready", flush=True)
for line in sys.stdin:
    word, *arguments = line.split()
    if word == "truncate":
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
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", self.PROGRAM, f"/dev/shm/{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, words: str) -> None:
        assert self.process.stdin is not None
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
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)
