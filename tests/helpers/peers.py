"""Node with the real shm-typed-array, driven by lines of JSON, and System V keys for tests."""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest
import sysv_ipc

ROOT = Path(__file__).parents[2]
NODE_DIR = Path(os.environ.get("TEST_NODE_DIR", ROOT / "build" / "node"))
BUILT = NODE_DIR / "node_modules" / "shm-typed-array" / "build" / "Release" / "shm.node"


def missing(reason: str) -> NoReturn:
    """Skip the test for want of something that `make test` installs; with CI set, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_node() -> str:
    """The node to run."""
    node = shutil.which("node")
    if node is None:
        missing("NODE IS MISSING (Node, npm): nothing was tried against the real shm-typed-array")
    if not BUILT.exists():
        missing("SHM-TYPED-ARRAY IS NOT INSTALLED: `make build/node.stamp` says why")
    return node


def environment() -> dict[str, str]:
    """Ours, without the sanitizer that may be preloaded into us."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def from_json(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def to_json(value: Any) -> Any:
    finite = isinstance(value, int) or abs(value) < float("inf")
    return value if finite else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")


class NodeError(Exception):
    """What the original threw, as "RangeError: ..."."""


class Peer:
    """A Node process that calls the original."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [need_node(), str(ROOT / "tests" / "interop" / "node" / "peer.js"), str(NODE_DIR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._names = itertools.count()

    def ask(self, verb: str, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": verb, **request}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise NodeError(answer["error"])
        return answer["result"]

    def create(self, *arguments: Any) -> "NodeArray | None":
        return self._array("create", arguments)

    def get(self, *arguments: Any) -> "NodeArray | None":
        return self._array("get", arguments)

    def _array(self, verb: str, arguments: tuple[Any, ...]) -> "NodeArray | None":
        name = str(next(self._names))
        facts = self.ask(verb, **{"as": name, "arguments": arguments})
        return None if facts is None else NodeArray(self, name, facts)

    def detach(self, *arguments: Any) -> int:
        left: int = self.ask("detach", arguments=arguments)
        return left

    def destroy(self, *arguments: Any) -> bool:
        done: bool = self.ask("destroy", arguments=arguments)
        return done

    def detach_all(self) -> int:
        destroyed: int = self.ask("detachAll")
        return destroyed

    def totals(self) -> tuple[int, int]:
        used, created = self.ask("totals")
        return used, created

    def exit(self) -> str:
        """Have it exit by itself, and return what its clean-up printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        last_words = self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait(10)
        return last_words

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            self.exit()


class NodeArray:
    """An array in the Node process."""

    def __init__(self, peer: Peer, name: str, facts: dict[str, Any]) -> None:
        self.peer = peer
        self.name = name
        self.kind: str = facts["class"]
        self.length: int = facts["length"]
        self.key: int | None = facts.get("key")

    def read(self) -> list[Any]:
        return [from_json(value) for value in self.peer.ask("read", **{"as": self.name})]

    def write(self, values: list[Any], at: int = 0) -> None:
        sent = [to_json(value) for value in values]
        self.peer.ask("write", **{"as": self.name, "at": at, "values": sent})


# ---- one life, for the port and for the original -----------------------------------


class Array:
    """Stands for any array in LIVES."""


#: Calls for one key, each with what it returns, and the bytes attached and created after it.
#: Whoever makes them is the only one attached.
LIVES: dict[str, list[tuple[Any, ...]]] = {
    "sysv": [
        ("get", (), None, 0, 0),
        ("detach", (), -1, 0, 0),
        ("destroy", (), False, 0, 0),
        ("create", (10, "Float32Array"), Array, 40, 40),
        ("create", (10, "Float32Array"), None, 40, 40),
        ("detach", (), 0, 0, 0),  # the last attachment, so it is destroyed
        ("detach", (), -1, 0, 0),
        ("destroy", (), False, 0, 0),
        ("get", (), None, 0, 0),
        ("create", (3, "Buffer"), Array, 3, 3),
        ("destroy", (), True, 0, 0),
        ("destroy", (), False, 0, 0),
        ("create", (3, "Buffer"), Array, 3, 3),
        ("detach", (True,), 0, 0, 0),
        ("detach", (True,), -1, 0, 0),
    ],
    "posix": [
        ("get", (), None, 0, 0),
        ("detach", (), -1, 0, 0),
        ("destroy", (), False, 0, 0),
        ("create", (10, "Float32Array"), Array, 48, 48),  # its header counts
        ("create", (10, "Float32Array"), None, 48, 48),
        ("detach", (), 1, 0, 48),  # it stays
        ("detach", (), 1, 0, 48),
        ("destroy", (), True, 0, 0),
        ("get", (), None, 0, 0),
        ("create", (3, "Buffer"), Array, 11, 11),
        ("detach", (True,), 0, 0, 0),
        ("detach", (True,), -1, 0, 0),
        ("destroy", (), False, 0, 0),
    ],
}


def life_of(
    key: int | str, kind: str, library: Any, totals: Callable[[], tuple[int, int]]
) -> list[str]:
    """Make LIVES' calls, and write down what happens, for True is not 1."""
    rows, kept = [], []
    for verb, arguments, *_ in LIVES[kind]:
        given = (*arguments, key) if verb == "create" else (key, *arguments)
        result = getattr(library, verb)(*given)
        kept.append(result)  # an array that is dropped takes its attachment along
        is_array = not isinstance(result, bool | int | None)
        rows.append(repr((verb, arguments, Array if is_array else result, *totals())))
    return rows


# ---- System V ----------------------------------------------------------------


def fresh_key() -> int:
    """A key that nobody uses."""
    taken = {row["key"] for row in segments()}
    while (key := 1 + secrets.randbelow(2**31 - 2)) in taken:
        pass
    return key


def segments() -> list[dict[str, int]]:
    """Every System V segment of this machine, as the kernel lists them."""
    head, *rows = Path("/proc/sysvipc/shm").read_text().splitlines()
    names = head.split()
    found = [dict(zip(names, map(int, row.split()), strict=True)) for row in rows]
    return [
        {**row, "key": row["key"] & 0xFFFFFFFF, "perms": int(str(row["perms"]), 8)} for row in found
    ]


def segment_of(key: int) -> dict[str, int] | None:
    return next((row for row in segments() if row["key"] == key), None)


def remove_segment(key: int) -> None:
    """Remove what a failed test left."""
    with contextlib.suppress(sysv_ipc.ExistentialError):
        sysv_ipc.remove_shared_memory(sysv_ipc.SharedMemory(key).id)
