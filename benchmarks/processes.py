"""Child processes that never outlive the run: killed and reaped, whatever happens."""

import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from benchmarks.harness import Report

_spawn = multiprocessing.get_context("spawn")  # a forked child would share our descriptors

PR_SET_PDEATHSIG = 1

#: Seconds after which a child that says nothing is taken for stuck.
PATIENCE = 120


class Pipe(Protocol):
    """One end of the connection between the run and a child."""

    def send(self, message: Any, /) -> None: ...
    def recv(self) -> Any: ...
    def poll(self, timeout: float, /) -> bool: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...


class StuckError(RuntimeError):
    """A child said nothing for too long, or died."""


class Member:
    """A child process that runs ``target(pipe, *arguments)``."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        self.pipe: Pipe
        self.pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_begin, args=(target, theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self, timeout: float = PATIENCE) -> Any:
        """Return the next message of the child. Raises StuckError if there is none."""
        if not self.pipe.poll(timeout):
            raise StuckError(f"a child said nothing for {timeout:g} s")
        try:
            return self.pipe.recv()
        except EOFError:
            raise StuckError("a child died: see what it printed") from None

    def ask(self, message: object, timeout: float = PATIENCE) -> Any:
        self.pipe.send(message)
        return self.receive(timeout)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


@contextmanager
def members(
    target: Callable[..., None], each: Sequence[tuple[object, ...]], build: str | None = None
) -> Iterator[list[Member]]:
    """One child per tuple of arguments; all are gone when the block ends.

    Args:
        target: what they run: a function of a module, which they import.
        each: the arguments of each.
        build: the directory that they import shm_async from; None: as installed.
    """
    first: tuple[Any, ...] = (target,)
    if build is not None:
        first = (_in_build, build, target.__module__, target.__qualname__)
    started: list[Member] = []
    try:
        for arguments in each:
            started.append(Member(*first, *arguments))  # noqa: PERF401  # those before a failure end too
        yield started
    finally:
        for member in started:
            member.end()


def _in_build(pipe: Pipe, build: str, module: str, name: str, *arguments: object) -> None:
    """Run a function whose module imports shm_async: it gets the one of the build."""
    sys.path.insert(0, build)
    target = getattr(importlib.import_module(module), name)
    found = importlib.import_module("shm_async").__file__ or ""
    if os.path.commonpath([found, build]) != build:
        raise ImportError(f"shm_async was imported from {found}, not from {build}")
    target(pipe, *arguments)


def in_child(report: Report, work: Callable[..., Any], *arguments: object) -> Any:
    """Return ``work(report, *arguments)``, run by a process that does nothing else."""
    with members(_work, [(work, *arguments)]) as [member]:
        while True:
            kind, *message = member.receive()
            if kind == "done":
                return message[0]
            report(*message)


def _work(pipe: Pipe, work: Callable[..., Any], *arguments: object) -> None:
    def report(label: str, share: float) -> None:
        pipe.send(("report", label, share))

    pipe.send(("done", work(report, *arguments)))


def _begin(target: Callable[..., None], pipe: Pipe, *arguments: object) -> None:
    """Run in the child: Ctrl-C is the parent's business, and its death is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a descriptor per waiter
    target(pipe, *arguments)
