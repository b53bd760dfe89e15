"""200 MB of weights, once in memory for all workers, and swapped without a pause: NumPy, gunicorn.

    make example NAME=model_weights
    curl localhost:8000/predict            # each worker reads all weights
    curl localhost:8000/memory             # what each worker takes up, and what it shares
    curl -X POST localhost:8000/publish    # a new version; requests go on meanwhile

Use it for models, indexes and tables that every worker reads and that change now and then. Do not
use it for weights that a request writes to: readers take no lock here.

A version is a region that nobody writes to once it is published. Another region, of one number,
says which version is the newest. A worker looks at that number in each request; an old version's
memory goes when the last worker has let go of it.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy

from shm_async import Region, RegionNotFoundError, inspect

NAME = os.environ.get("MODEL_WEIGHTS_REGION", "model-weights")
WEIGHTS = int(os.environ.get("MODEL_WEIGHTS_MB", "200")) * 250_000  # float32
MASTER = os.getpid()  # imported before the fork, with --preload

# "ignore": one number that is stored at once is never half-written
newest = Region.open(NAME, 1, dtype="int64", on_owner_death="ignore")
current: tuple[int, Region] | None = None  # the version that this worker reads


def publish() -> int:
    """Make the next version, and only then tell. Other publishers wait, readers do not."""
    with newest.write_lock() as view:
        version = view[0] + 1
        with suppress(RegionNotFoundError):  # left by a publisher that was killed
            Region.attach(f"{NAME}-{version}").unlink()
        with Region.create(f"{NAME}-{version}", WEIGHTS, dtype="float32") as region:
            region.numpy()[:] = version  # a real one would be loaded from a file
        view[0] = version
    remove(version - 1)
    return int(version)


def remove(version: int) -> None:
    """Remove the name. Those who are attached keep the memory until they let go."""
    with suppress(RegionNotFoundError), Region.attach(f"{NAME}-{version}") as region:
        region.unlink()


def weights() -> tuple[int, Region]:
    """The newest version. Attaching copies nothing."""
    global current
    while current is None or current[0] != newest.buffer[0]:  # one load needs no lock
        version = newest.buffer[0]
        with suppress(RegionNotFoundError):  # there is a newer one by now
            old, current = current, (version, Region.attach(f"{NAME}-{version}", readonly=True))
            if old:
                old[1].close()
    return current


def memory() -> dict[str, object]:
    """Of each worker, in MB: "rss" counts shared memory in full, "pss" shares it out."""
    version, region = weights()
    told = {}
    for process in inspect(region.name)[0].processes:
        with open(f"/proc/{process.pid}/smaps_rollup") as rollup:
            rows = [line.split() for line in rollup][1:]
        sizes = {row[0]: int(row[1]) // 1000 for row in rows}
        told[process.pid] = {"rss": sizes["Rss:"], "pss": sizes["Pss:"]}
    return {"version": version, "weights": region.nbytes // 1_000_000, "workers": told}


def app(environment: dict[str, str], start: Callable[..., object]) -> Iterable[bytes]:
    match environment["REQUEST_METHOD"], environment["PATH_INFO"]:
        case "GET", "/predict":
            version, region = weights()
            mean = float(numpy.mean(region.numpy(), dtype="float64"))
            answer: dict[str, object] = {"mean": mean, "version": version, "worker": os.getpid()}
        case "GET", "/memory":
            answer = memory()
        case "POST", "/publish":
            answer = {"version": publish()}
        case _:
            start("404 Not Found", [])
            return []
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode() + b"\n"]


@atexit.register
def clean_up() -> None:
    """Remove both names, when the master ends: after its workers."""
    if os.getpid() == MASTER and not newest.closed:
        remove(newest.buffer[0])
        newest.unlink()


def main() -> None:
    arguments = ["--bind", f"127.0.0.1:{os.environ.get('PORT', '8000')}", "--workers", "4"]
    arguments += ["--preload", "--no-control-socket"]
    arguments += ["--chdir", os.path.dirname(os.path.abspath(__file__)), "model_weights:app"]
    newest.close()  # gunicorn imports this file again
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *arguments])


if __name__ == "__main__":
    main()
elif newest.buffer[0] == 0:
    publish()
