"""A counter that all threads of all workers share, without asyncio: Flask under gunicorn.

    make example NAME=flask_counter
    for i in $(seq 20); do curl -s localhost:8000/; done

Three worker processes with four threads each count visits, and the numbers have no gap.

Use it for counters, quotas and ids in a service of threads: `with` waits for the lock and lets the
other threads run meanwhile. Do not use it in a coroutine, where `with` would stop the event loop
(web_counter.py has `async with`), or for a number that must outlive the host.
"""

import atexit
import os
import sys
from typing import TypedDict

from flask import Flask

from shm_async import Hold, Region

VISITS, BOOKED = 0, 1  # the second is for the repair: a worker can die between the two stores


class Visit(TypedDict):
    visit: int
    worker: int


def repair(hold: Hold) -> None:
    """Finish what a killed worker had begun. Called with the write lock held."""
    hold.view[BOOKED] = hold.view[VISITS]


# at import: so in each worker. The last one that stops removes the region
region = Region.open(
    os.environ.get("FLASK_COUNTER_REGION", "flask-counter"),
    2,
    dtype="uint64",
    on_owner_death=repair,
    unlink="last",
)
atexit.register(region.close)

app = Flask(__name__)


@app.get("/")
def visit() -> Visit:
    with region.write_lock() as view:
        view[VISITS] += 1
        view[BOOKED] = view[VISITS]
        return {"visit": view[VISITS], "worker": os.getpid()}


@app.get("/visits")
def visits() -> Visit:
    with region.read_lock() as view:  # beside other readers
        return {"visit": view[VISITS], "worker": os.getpid()}


def main() -> None:
    port = os.environ.get("PORT", "8000")
    arguments = ["--bind", f"127.0.0.1:{port}", "--workers", "3", "--threads", "4"]
    arguments += ["--no-control-socket", "--chdir", os.path.dirname(os.path.abspath(__file__))]
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *arguments, "flask_counter:app"])


if __name__ == "__main__":
    main()  # exec lets go of what this import opened, and removes nothing
