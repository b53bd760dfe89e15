"""What a fork in another thread must not cut in two.

A forked child has only the thread that forked. Had another one a lock at that moment, it stays
taken in the child for ever; had it begun to import a module, the child finds it half imported,
and its own first use of it never returns. So a fork waits for these locks, and has them itself
when the child comes into being. A fork that a C library makes by itself does not wait, as Python
hears nothing of it.
"""

import logging  # noqa: F401  # registers a hook that takes a lock which an import may need: see below
import os
from contextlib import suppress
from threading import RLock

__all__ = ["importing", "undivided"]

# Both are reentrant: a garbage collection may come in the middle, and so may a signal handler,
# which may fork. Whoever has `importing` may take `undivided`, not the other way round.

#: Held during an import that was put off to a first use. Never taken by a garbage collection: it
#: may run in a thread that imports what the import waits for.
importing = RLock()

#: Held during a step that must be done once, or whole. It is short, and waits for no other thread.
undivided = RLock()

#: Seconds for which a fork waits for each. Who takes longer waits, too, perhaps for a lock of the
#: thread that forks: better a child that has to do without it than no fork at all.
PATIENCE = 10.0


def _before_fork() -> None:
    for lock in (importing, undivided):
        lock.acquire(timeout=PATIENCE)


def _after_fork() -> None:
    for lock in (undivided, importing):
        with suppress(RuntimeError):  # the patience was over: another thread has it
            lock.release()


# Python calls the hook first that was registered last. Logging's own must come after this one, or
# it would hold the lock of all loggers while this one waits for an import that needs it.
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
