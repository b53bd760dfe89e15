"""The loop of threads and scripts: its end."""

import os
import threading

from shm_async._postgresql.portal import Portal


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
