"""The loop of threads and scripts: its end, and forks."""

import errno
import os
import threading
from concurrent.futures import Future

import anyio.lowlevel
import pytest
from forks import in_child

from shm_async._postgresql import portal as module
from shm_async._postgresql.portal import Portal, portal


def test_no_thread_is_left_when_it_is_closed(monkeypatch):
    """Not for the kernel, either: a fork must not meet the last steps of a thread."""
    threads: list[int] = []
    started = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        threads.append(threading.get_native_id())
        started(thread)

    monkeypatch.setattr(threading.Thread, "run", run)
    for _ in range(50):
        portal = Portal()
        portal.open()
        portal.close()
        assert not os.path.exists(f"/proc/self/task/{threads[-1]}")
    assert len(threads) == 50


def use() -> None:
    portal.open()
    portal.call(anyio.lowlevel.checkpoint)
    portal.close()


def test_a_child_has_a_loop_of_its_own(fork):
    portal.open()
    in_child(use, fork=fork)
    portal.close()


def test_a_child_begins_without_the_loop_that_another_thread_starts_or_ends():
    with portal._lock:
        in_child(use)
    use()


def test_a_loop_that_cannot_start_is_no_hindrance_for_the_next(monkeypatch):
    def fail(*_arguments: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor is left")

    with monkeypatch.context() as patched:
        patched.setattr(anyio, "run", fail)
        with pytest.raises(OSError, match="no descriptor"):
            portal.open()
    use()


def test_a_start_that_is_interrupted_leaves_no_thread(monkeypatch):
    ready = []

    class Interrupted(Future):
        def result(self, timeout: float | None = None) -> object:
            found = super().result(timeout)
            if not ready:  # once
                ready.append(self)
                raise KeyboardInterrupt
            return found

    with monkeypatch.context() as patched:
        patched.setattr(module, "Future", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.open()
    portal._thread.join(20)
    assert not portal._thread.is_alive()
    use()


def test_a_start_that_is_interrupted_too_early_leaves_no_thread(monkeypatch):
    class Interrupted(Future):
        def result(self, timeout: float | None = None) -> object:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "Future", Interrupted)
        run = anyio.run
        go_on = threading.Event()
        patched.setattr(anyio, "run", lambda serve: go_on.wait(20) and run(serve))
        with pytest.raises(KeyboardInterrupt):
            portal.open()
        go_on.set()
        portal._thread.join(20)
    assert not portal._thread.is_alive()
    use()
