"""The master and the worker of shm-typed-array's README, with the port of its API.

    python examples/shm_typed_array_cluster.py [WORKER COMMAND ...]

The master creates two segments and starts a worker, which gets them by their keys. They
take turns, by lines of JSON through the worker's pipes, where the original's timers hope
for the best. Either of them may as well be a Node process with the original: give
its command, and it will be the worker.
"""

import json
import subprocess
import sys
from typing import Any

from shm_async import shm_typed_array as shm
from shm_async._shared_array import SharedArray

TURNS = 5
FLOATS = 1_000_000  # 4 MB


def master(worker_command: list[str]) -> None:
    buf = created(shm.create(4096))  # 4 KB
    arr = created(shm.create(FLOATS, "Float32Array"))
    buf[0] = 1
    arr[0] = 10.0
    print("[Master] Typeof buf:", kind(buf), "Typeof arr:", kind(arr))

    worker = subprocess.Popen(
        worker_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with worker:
        print(ask(worker, msg="shm", bufKey=buf.key, arrKey=arr.key))
        for turn in range(TURNS):
            buf[0] += 1
            arr[0] /= 2
            print(f"{turn} [Master] Set buf[0]= {buf[0]}  arr[0]= {arr[0]:g}")
            if turn < TURNS - 1:
                print(ask(worker, msg="turn"))

    destroyed = shm.detach_all()  # would run at exit, but the original also says what it did
    print("shm segments destroyed:", destroyed)


def ask(worker: "subprocess.Popen[str]", **message: Any) -> str:
    """Send the worker a message, and return the line that it says to that."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(message) + "\n")
    worker.stdin.flush()
    return worker.stdout.readline().rstrip()


def worker() -> None:
    """Say one line to each message, until there are no more; what is attached ends at exit."""
    turn = 0
    for line in sys.stdin:
        message = json.loads(line)
        if message["msg"] == "shm":
            buf = created(shm.get(message["bufKey"]))
            arr: SharedArray | None = created(shm.get(message["arrKey"], "Float32Array"))
            print("[Worker] Typeof buf:", kind(buf), "Typeof arr:", kind(arr), flush=True)
            continue
        first = "null" if arr is None else f"{arr[0]:g}"
        print(f"{turn} [Worker] Get buf[0]= {buf[0]}  arr[0]= {first}", flush=True)
        turn += 1
        if arr is not None and turn == 2:
            shm.detach(arr.key)
            arr = None  # in the original, to go on using it would be a crash


def created(array: SharedArray | None) -> SharedArray:
    if array is None:
        sys.exit("the key is taken, or there is no such segment")
    return array


def kind(array: SharedArray | None) -> str:
    return type(array).__name__


if __name__ == "__main__":
    shm.cleanup_on_signals()  # a kill or Ctrl-C leaves no segment behind
    if sys.argv[1:] == ["worker"]:
        worker()
    else:
        master(sys.argv[1:] or [sys.executable, __file__, "worker"])
