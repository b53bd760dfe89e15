"""How an event loop is told, without a thread, that somebody has written.

A writer who ends makes the generation even and then touches the times of the region's object,
if there is word in the control page that somebody wants to know; inotify passes that on
(watch.c). Here it is received: each event loop has a *hub*, its one inotify instance, and in
it a *lookout* for each region that its tasks watch. An event only says that it is time to
look. What has changed is told by the generation, so events may be merged or meant for others.

A lookout stays for a second after its last task has gone, as that one mostly comes back.
"""

import errno
import os
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from weakref import ReferenceType, WeakValueDictionary, ref

from . import _native
from ._native import (
    BUSY,
    LockCloser,
    LockHandle,
    WatchCloser,
    WatchHandle,
    watch_look,
    watch_remove,
)
from .filelock import Ending, Opener, closed, failure
from .loops import NO_TASK, Loop, Waiter, adapt
from .segment import FD_DIR

__all__ = ["LAST", "NEVER", "Lookout", "hub_of"]

#: Seconds after which a lookout that cannot rely on being told looks for itself: one that may
#: not leave word in the control page, or that waits for a writer who may have died, while
#: somebody else has the lock for a moment.
LOOK_AGAIN = 0.02

#: Seconds that a lookout nobody uses is kept, and then the hub. To close an inotify instance takes
#: 10 ms of the loop's time, but nothing if its last watch was removed a while ago.
LINGER = 1.0

NEVER = -1  # before the first generation
LAST = 2**63 - 1  # that watch_look knows

LIMITS = {
    errno.EMFILE: "this user has too many inotify instances (fs.inotify.max_user_instances), "
    "or this process too many descriptors",
    errno.ENOSPC: "this user watches too many files (fs.inotify.max_user_watches)",
}


class Hub:
    """The inotify instance of one event loop. For the loop's own thread.

    The loop keeps it, by watching its descriptor, and it keeps the lookouts; both know it
    by weak references only. So when the loop is closed all of that is, too.

    Invariants, between any two awaits:

    * `lookouts` has every open lookout, by the watch descriptor of its object: all that look
      at the same object share one.
    * `unsure`, a subset of them, not empty => `looking`.
    * A lookout without a task, or no lookout at all => `tidying`, if the loop is not over.
    """

    __slots__ = (
        "__weakref__",
        "closer",
        "handle",
        "looking",
        "lookouts",
        "loop",
        "native",
        "tidying",
        "unsure",
    )

    def __init__(self, native: object) -> None:
        self.handle: WatchHandle
        self.closer: WatchCloser | None
        code, self.handle, self.closer = _native.watch_open()
        check(code, "make an inotify instance")
        self.native = native
        self.loop: Loop = adapt(native)
        self.lookouts: dict[int, list[Lookout]] = {}
        self.unsure: dict[Lookout, None] = {}
        self.looking = False  # will look again
        self.tidying = False  # will tidy
        self.loop.watch(self.handle.fd, self._told)
        self.tidy_later()

    def add(self, lookout: "Lookout", path: str) -> int:
        """Have it told of what happens to the object at `path`. Returns the watch descriptor."""
        number = check(_native.watch_add(self.handle, path), "watch the region", lookout.name)
        self.lookouts.setdefault(number, []).append(lookout)
        self.tidy_later()
        return number

    def remove(self, lookout: "Lookout") -> None:
        """It is closed. Removes the watch of an object that nobody else looks at."""
        self.unsure.pop(lookout, None)
        others = self.lookouts.get(lookout.number, [])
        if lookout in others:
            others.remove(lookout)
            if not others:
                del self.lookouts[lookout.number]
                watch_remove(self.handle, lookout.number)
        if not self.lookouts:
            self.tidy_later()

    def _told(self) -> None:
        numbers = _native.watch_read(self.handle)
        if -1 in numbers:  # the kernel has lost some
            numbers = list(self.lookouts)
        for number in dict.fromkeys(numbers):
            for lookout in self.lookouts.get(number, ()):
                lookout.told()

    # ---- later ----------------------------------------------------------------

    def look_again(self, lookout: "Lookout") -> None:
        """Have it look for itself, soon, whether it is told or not."""
        self.unsure[lookout] = None
        if not self.looking:
            self.loop.call_later(LOOK_AGAIN, self._look_again)
            self.looking = True

    def _look_again(self) -> None:
        self.looking = False
        unsure, self.unsure = self.unsure, {}
        for lookout in unsure:
            lookout.told()

    def tidy_later(self) -> None:
        if not self.tidying:
            try:
                self.loop.call_later(LINGER, self._tidy)
                self.tidying = True
            except RuntimeError:
                pass  # the loop is over

    def _tidy(self) -> None:
        """Close the lookouts that nobody has used for a while, and an empty hub."""
        self.tidying = False
        self.close_if_empty()
        everyone = [each for some in self.lookouts.values() for each in some]
        deserted = [lookout for lookout in everyone if not lookout.waiting]
        for lookout in deserted:
            if monotonic() - lookout.used >= LINGER:
                lookout.close()
        if deserted:
            self.tidy_later()

    def close_if_empty(self) -> None:
        if not self.lookouts and self.closer is not None:
            _hubs.pop(id(self.native), None)
            self.loop.unwatch(self.handle.fd)
            self.closer = None


class Lookout:
    """One region, as the tasks of one event loop see it. For the loop's own thread.

    Invariants, between any two awaits:

    * `latest` is the generation that one of us has seen last, and each of `waiting` was
      woken when it moved, or knew of it when it began to wait. So nobody sleeps over a change.
    * `handle` has a descriptor <=> the lookout is open, and this is no forked child.
    """

    __slots__ = (
        "__weakref__",
        "closer",
        "handle",
        "hub",
        "latest",
        "loop",
        "name",
        "number",
        "thread",
        "used",
        "waiting",
        "writable",
    )

    def __init__(self, opener: Opener, hub: Hub) -> None:
        self.handle: LockHandle
        self.closer: LockCloser | None
        self.handle, self.closer = opener.open(to_look=True)
        self.name = opener.mapping.name
        self.writable = not opener.mapping.readonly
        self.hub: ReferenceType[Hub] = ref(hub)
        self.loop = hub.loop
        self.thread = get_ident()
        self.waiting: dict[Waiter, None] = {}
        self.latest = NEVER
        self.used = monotonic()
        self.number = NEVER  # the watch descriptor
        try:
            self._add(opener, hub)
        except BaseException:
            self.close()
            hub.close_if_empty()  # the exception may be kept, and us with it
            raise

    def _add(self, opener: Opener, hub: Hub) -> None:
        try:
            self.number = hub.add(self, f"{FD_DIR}/{self.handle.fd}")
            return
        except FileNotFoundError:  # no /proc
            path = opener.segment.path()
        self.number = hub.add(self, path)
        found = os.stat(path)
        if (found.st_dev, found.st_ino) != opener.segment.identity:
            raise OSError(errno.ESTALE, f"cannot watch it: {path} is another object", self.name)

    def look(self, since: int) -> int:
        """The newest generation at which a write had ended.

        If that is not after `since`, writers know that we want to hear of the next one. BUSY:
        none after `since`, and a writer is inside. Other -errno are failures.
        """
        code = watch_look(self.handle, since, self.writable)
        if (code == BUSY or not self.writable) and (hub := self.hub()) is not None:
            hub.look_again(self)
        if code >= 0 and code != self.latest:  # less: somebody has scribbled there
            self.latest = code
            self._wake()
        return code

    def told(self) -> None:
        """It is time to look; nothing to do if nobody wants to know."""
        if self.waiting:
            code = self.look(self.latest)
            if code < 0 and code != BUSY:
                self._wake(lambda: failure(code, self.name, self.handle))

    def _wake(self, error: Callable[[], Exception] | None = None) -> None:
        waiting, self.waiting = self.waiting, {}
        for waiter in waiting:
            if error is not None:
                waiter.error = error()
            waiter.wake()

    async def wait(self) -> None:
        """Wait until there is something to look at. Cancellable.

        Raises:
            OwnerDiedError, RegionReplacedError, and all that ends a region.
        """
        waiter = self.loop.waiter(False, NO_TASK)
        self.waiting[waiter] = None
        try:
            await waiter.wait()
        finally:
            self.waiting.pop(waiter, None)
            self._left()
        if waiter.error is not None:
            raise waiter.error

    def _left(self) -> None:
        self.used = monotonic()
        if not self.waiting and (hub := self.hub()) is not None:
            hub.tidy_later()

    def close(self, why: Ending = closed) -> None:
        """Stop looking, and tell who waits why. Closing twice is fine."""
        if self.closer is not None:
            self.closer = None
            if (hub := self.hub()) is not None:
                hub.remove(self)
            self._wake(lambda: why(self.name))


#: By the id of their event loops, which keep them: nothing here keeps a loop.
_hubs: WeakValueDictionary[int, Hub] = WeakValueDictionary()

os.register_at_fork(after_in_child=_hubs.clear)


def hub_of(native: object) -> Hub:
    """The running event loop's."""
    hub = _hubs.get(id(native))  # a hub has its loop, so no other one can have that id
    if hub is None or hub.handle.fd < 0:  # a parent's
        hub = _hubs[id(native)] = Hub(native)
    return hub


def check(code: int, doing: str, name: str | None = None) -> int:
    if code < 0:
        why = LIMITS.get(-code, os.strerror(-code))
        raise OSError(-code, f"cannot {doing}: {why}", name)
    return code
