"""Notifying an event loop, without a thread, that a process has written.

A writer that ends makes the generation even. If the control page says that a process watches,
the writer then sets the times of the region's object, and inotify reports that (watch.c). Each
event loop has a *hub*, its one inotify instance, and in it a *lookout* for each region that its
tasks watch. An event only says that it is time to look. The generation says whether something
has changed, so events may be merged or meant for another watcher.

A lookout stays open for a second after its last task, as that task mostly waits again.
"""

import errno
import os
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from weakref import ReferenceType, WeakValueDictionary, ref

from .. import _native
from .._failures import closed
from .._lock.loops import NO_TASK, Loop, Waiter, adapt
from .._lock.ofd import Ending, Opener, failure
from .._memory.names import FD_DIR, SHM_DIR
from .._memory.segment import Whither
from .._native import (
    BUSY,
    LockCloser,
    LockHandle,
    WatchCloser,
    WatchHandle,
    watch_check,
    watch_look,
    watch_remove,
)

__all__ = ["LAST", "NEVER", "Lookout", "hub_of"]

#: Seconds after which a lookout that cannot rely on events looks again. It cannot if it may not
#: write its request to the control page. Nor can it while a writer is active, which may have
#: died although another process has the lock for a moment.
LOOK_AGAIN = 0.02

#: Seconds that an unused lookout is kept, and then the hub. Closing an inotify instance takes
#: 10 ms of the loop's time, but no time if its last watch was removed a while ago.
LINGER = 1.0

NEVER = -1  # before the first generation
LAST = 2**63 - 1  # the last generation that watch_look can return

LIMITS = {
    errno.EMFILE: "this user has too many inotify instances (fs.inotify.max_user_instances), "
    "or this process too many descriptors (RLIMIT_NOFILE)",
    errno.ENOSPC: "this user watches too many files (fs.inotify.max_user_watches)",
}


class Hub:
    """The inotify instance of one event loop. For the loop's own thread.

    The loop keeps the hub alive, as it watches the hub's descriptor; the hub keeps the lookouts
    alive. The other references are weak. So when the loop is closed, hub and lookouts are, too.

    Invariants, between any two awaits:

    * `lookouts` has every open lookout, by the watch descriptor of its object: all lookouts of
      the same object share one.
    * `unsure`, a subset of them, not empty => `looking`.
    * `nameless`, a subset of them, has the lookouts whose name led to nothing at their last
      look. Not empty => the directory of names is watched, as `names`.
    * A lookout without a task, or no lookout at all => `tidying`, if the loop is not closed.
    """

    __slots__ = (
        "__weakref__",
        "closer",
        "handle",
        "looking",
        "lookouts",
        "loop",
        "nameless",
        "names",
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
        self.nameless: dict[Lookout, None] = {}
        self.names = NEVER  # the watch descriptor of the directory
        self.looking = False  # will look again
        self.tidying = False  # will tidy
        self.loop.watch(self.handle.fd, self._told)
        self.tidy_later()

    def add(self, lookout: "Lookout", path: str) -> int:
        """Notify a lookout of events of the object at `path`. Return the watch descriptor."""
        number = check(_native.watch_add(self.handle, path), "watch the region", lookout.name)
        self.lookouts.setdefault(number, []).append(lookout)
        self.tidy_later()
        return number

    def remove(self, lookout: "Lookout") -> None:
        """Forget a closed lookout. Remove the watch of an object that no other lookout needs."""
        self.unsure.pop(lookout, None)
        self.has_a_name(lookout)
        others = self.lookouts.get(lookout.number, [])
        if lookout in others:
            others.remove(lookout)
            if not others:
                del self.lookouts[lookout.number]
                watch_remove(self.handle, lookout.number)
        if not self.lookouts:
            self.tidy_later()

    def has_no_name(self, lookout: "Lookout") -> int:
        """Notify a lookout of new names, too. Return 0 or -errno."""
        if not self.nameless:
            self.names = _native.watch_add_names(self.handle, SHM_DIR)
            if self.names < 0:
                return self.names
        self.nameless[lookout] = None
        return 0

    def has_a_name(self, lookout: "Lookout") -> None:
        """Notify a lookout of new names no more."""
        if self.nameless.pop(lookout, self) is None and not self.nameless:
            watch_remove(self.handle, self.names)

    def _told(self) -> None:
        numbers = _native.watch_read(self.handle)
        if -1 in numbers:  # the kernel has lost some events
            numbers = list(self.lookouts)
        for number in dict.fromkeys(numbers):
            for lookout in self.lookouts.get(number, ()):
                lookout.told()
            if number == self.names:
                for lookout in list(self.nameless):
                    lookout.told()

    # ---- later ----------------------------------------------------------------

    def look_again(self, lookout: "Lookout") -> None:
        """Have a lookout look again after LOOK_AGAIN, even without an event."""
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
                pass  # the loop is closed

    def _tidy(self) -> None:
        """Close the lookouts that no task has used for LINGER, and an empty hub."""
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

    * `latest` is the generation that a task of this loop has seen last. Each of `waiting` was
      woken when it changed, or knew it when it began to wait. So no task misses a change.
    * `handle` has a descriptor <=> the lookout is open, and this is not a forked child.
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
        "segment",
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
        self.segment = opener.segment
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
            hub.close_if_empty()  # a kept exception may keep this lookout, and its hub
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
        """Return the newest generation at which a write had ended.

        If that is not after `since`, the next writer will notify this lookout. BUSY: no such
        generation after `since`, and a writer is active. Other -errno are failures.
        """
        code = watch_look(self.handle, since, self.writable)
        if (code == BUSY or not self.writable) and (hub := self.hub()) is not None:
            hub.look_again(self)
        if code >= 0 and code != self.latest:  # lower: a process has damaged the control page
            self.latest = code
            self._wake()
        return code

    def told(self) -> None:
        """Look, after an event, and wake the tasks that wait, if there are any."""
        if self.waiting:
            code = self.look(self.latest)
            if code < 0 and code != BUSY:
                self._wake(lambda: failure(code, self.name, self.handle))
        if self.waiting:
            try:
                if self.is_supplanted():
                    self._wake()  # the tasks see that, too, and attach to the new region
            except OSError:
                self._wake()  # each task gets the same error

    def is_supplanted(self) -> bool:
        """Tell whether a new region has our name, or key. If none has, an event will announce it.

        Raises:
            OSError: ENOSPC, the limit on watches.
        """
        leads = self.segment.name_leads()
        check(self._be_told_of_names(leads), "watch for a name", self.name)
        if leads == "nowhere":
            leads = self.segment.name_leads()  # it may have appeared just before
        return leads == "elsewhere"

    def _be_told_of_names(self, leads: Whither) -> int:
        """Return 0 or -errno. It raises nothing, as a kept exception would keep the hub."""
        hub = self.hub()
        if hub is None:
            return 0
        if leads == "nowhere":
            return hub.has_no_name(self)
        hub.has_a_name(self)
        return 0

    def _wake(self, error: Callable[[], Exception] | None = None) -> None:
        waiting, self.waiting = self.waiting, {}
        for waiter in waiting:
            if error is not None:
                waiter.error = error()
            waiter.wake()

    async def wait(self) -> None:
        """Wait until there is something to look at. Cancellable.

        Raises:
            OwnerDiedError, RegionReplacedError, and the errors of a closed or lost region.
        """
        waiter = self.loop.waiter(False, NO_TASK)
        self.waiting[waiter] = None
        try:
            await waiter.wakeup
        finally:
            self.waiting.pop(waiter, None)
            self._left()
        if waiter.error is not None:
            raise waiter.error

    def _left(self) -> None:
        self.used = monotonic()
        if not self.waiting and (hub := self.hub()) is not None:
            hub.tidy_later()

    def can_hear(self) -> bool:
        """Tell whether the hub is there, and the program has not closed its descriptor."""
        hub = self.hub()
        return hub is not None and watch_check(hub.handle) == 0

    def give_up(self) -> None:
        """Close, and wake the waiting tasks, which take another lookout."""
        self._wake()
        self.close()

    def close(self, why: Ending = closed) -> None:
        """Stop looking; the waiting tasks get the exception of `why`. Closing twice is fine."""
        if self.closer is not None:
            self.closer = None
            if (hub := self.hub()) is not None:
                hub.remove(self)
            self._wake(lambda: why(self.name))


#: The hubs by the id of their event loops, which keep them alive: no entry keeps a loop alive.
_hubs: WeakValueDictionary[int, Hub] = WeakValueDictionary()

os.register_at_fork(after_in_child=_hubs.clear)


def hub_of(native: object) -> Hub:
    """Return the hub of the event loop `native`; open one if there is none."""
    hub = _hubs.get(id(native))  # a hub keeps its loop, so no other loop can have that id
    if hub is None or watch_check(hub.handle) < 0:  # the parent's, or closed by the program
        hub = _hubs[id(native)] = Hub(native)
    return hub


def check(code: int, doing: str, name: str | None = None) -> int:
    if code < 0:
        why = LIMITS.get(-code, os.strerror(-code))
        raise OSError(-code, f"cannot {doing}: {why}", name)
    return code
