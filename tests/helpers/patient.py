"""A process that waits for a lock, one way or another, and says how it went.

    patient.py REGION HOW [TIMEOUT [KIND]]

HOW is with, often (with, until it is granted), asyncio, uvloop or trio; a TIMEOUT of - is none;
KIND is read or write. It says "asking", then "granted" or "gave up", and "over"; what a
signal handler raises goes through. Then it says what is left: waiting threads, timers, and
signals that got a handler meanwhile.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shm_async import Hold, LockTimeoutError, Region

BACKENDS = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
HOWS = ["with", *BACKENDS]

LIBCS = {32, 33}  # for threads, set up with the first one


def handled_signals() -> set[int]:
    """What the kernel says: it sees handlers that were set in C, too."""
    status = Path("/proc/self/status").read_text()
    mask = int(re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)[1], 16)
    return {bit + 1 for bit in range(64) if mask >> bit & 1} - LIBCS


def waiting_threads() -> int:
    count = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            count += Path(f"/proc/self/task/{task}/comm").read_text() == "shm_async\n"
    return count


def wait(region: Region, how: str, timeout: float | None = None, kind: str = "write") -> str:
    """Ask for the lock, and let go of it again."""
    if how == "with":
        return wait_in_thread(region, timeout, kind)
    if how == "often":
        while (answer := wait_in_thread(region, timeout, kind)) == "gave up":
            pass
        return answer
    # Each loop's own way to take Ctrl-C. A program imports the one that it needs: all of them
    # would cost it a fifth of a second.
    if how == "trio":
        import trio

        return trio.run(wait_in_loop, region, timeout, kind)
    if how == "uvloop":
        import uvloop

        return uvloop.run(wait_in_loop(region, timeout, kind))
    import asyncio

    return asyncio.run(wait_in_loop(region, timeout, kind))


def lock(region: Region, kind: str, **options):
    return region.write_lock(**options) if kind == "write" else region.read_lock(**options)


def wait_in_thread(region: Region, timeout: float | None, kind: str) -> str:
    try:
        with lock(region, kind, timeout=timeout):
            return "granted"
    except LockTimeoutError:
        return "gave up"


async def wait_in_loop(region: Region, timeout: float | None, kind: str) -> str:
    import anyio

    with anyio.move_on_after(timeout):
        async with lock(region, kind):
            return "granted"
    return "gave up"


def run(how: str, main: Callable[[], object]) -> None:
    import anyio

    backend, options = BACKENDS[how]
    anyio.run(main, backend=backend, backend_options=options)


def hold(region: Region, how: str, kind: str, inside: Callable[[Hold], None]) -> None:
    """Call `inside` with the hold while it is held."""
    held = lock(region, kind)

    async def main() -> None:
        async with held:
            inside(held)

    if how == "with":
        with held:
            inside(held)
    else:
        run(how, main)


def say(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    name, how, *rest = sys.argv[1:]
    timeout = float(rest[0]) if rest and rest[0] != "-" else None
    with Region.attach(name) as region:
        if how in BACKENDS:  # an event loop has handlers of its own
            from anyio.lowlevel import checkpoint

            run(how, checkpoint)
        before = handled_signals()
        say("asking")
        try:
            say(wait(region, how, timeout, *rest[1:]))
        finally:
            say("over")
            deadline = time.monotonic() + 10  # an idle thread lingers for a tenth of a second
            while waiting_threads() and time.monotonic() < deadline:
                time.sleep(0.005)
            say("threads", waiting_threads())
            say("timers", Path("/proc/self/timers").read_text().count("\nID:"))
            say("signals", *sorted(handled_signals() - before))


if __name__ == "__main__":
    main()
