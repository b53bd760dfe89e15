"""The possible owners of a lock that was acquired without a block.

A lock that was entered by ``with`` or ``async with`` belongs to that thread or task until the
block ends. A lock that was acquired by `acquire` or its twins may be handed to any task or
thread. So it is not certain that a waiter waits for itself. And a reader that may own such a
lock must not be queued behind a writer that waits for it.
"""

from threading import local
from weakref import ref

from .loops import NO_TASK, Loop, Task

__all__ = ["HANDED_ON", "Loose", "ThreadMark", "owner_of", "this_thread"]


#: Seconds for which a reader waits behind a writer although a lock for reading may have been
#: handed to it. If it was, the writer waits for this reader, so a longer wait would not help. If
#: it was not, the reader overtakes the writer, so this is longer than usual holds.
HANDED_ON = 1.0


class Loose:
    """The key under which a cohort counts a task that acquired a lock without a block."""

    __slots__ = ("_task", "loop")

    # Invariant: it does not keep the task alive. The task's result may refer to the hold, and
    # the objects of a cycle are torn down in any order.

    def __init__(self, task: Task, loop: Loop) -> None:
        self._task = None if task is NO_TASK else ref(task)
        self.loop = loop

    @property
    def task(self) -> Task:
        """The task that acquired it; NO_TASK: none, or the task is gone."""
        task = None if self._task is None else self._task()
        return NO_TASK if task is None else task

    def may_belong_to(self, task: Task) -> bool:
        """Tell whether that task acquired it, or its acquirer has ended."""
        acquirer = self.task
        return acquirer is task or acquirer is NO_TASK or self.loop.has_ended(acquirer)


def owner_of(key: Task) -> Task:
    """Return the task of a cohort's key."""
    return key.task if type(key) is Loose else key


class ThreadMark:
    """A mark of a thread; it dies with its thread."""

    __slots__ = ("__weakref__",)


_here = local()


def this_thread() -> "ref[ThreadMark]":
    """Return a reference to the mark of the calling thread; dead once that thread has ended."""
    try:
        return ref(_here.mark)
    except AttributeError:
        _here.mark = ThreadMark()
        return ref(_here.mark)
