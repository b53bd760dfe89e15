"""System V segments: create, attach, look at, remove; and the objects that carry their locks.

A System V segment has no descriptor that could take flock(2). So its lock lives on an
empty POSIX object, its *companion*, which every attachment finds by the segment's key. The
protocol:

* The creator of a managed segment opens or makes the companion, claims its creation byte, makes
  the segment, writes the control page, and releases the byte. A process that attaches looks for
  the segment first, and then claims the creation byte for a moment, so it meets no half-made
  segment. During this work the companion contains the creator's pid. If the pid stays there,
  the creator has died, and a segment that was made by that pid is half-made.
* The companion and the control page contain the same random cookie. A process that finds no
  companion, or one with another cookie, cannot exclude the attached processes: it is refused. If
  no process is attached, it gives the segment another companion. A grant is refused, too, if the
  companion has lost its name or is not the segment's any more.
* A segment of another program has no companion until a process of this package first locks it.
  It has no place for a cookie, so a replaced companion cannot be detected there.
* To remove a segment, a process holds the creation byte, and removes first the segment and then
  the companion. So no process makes another companion for a segment that exists.
* A process that closes a removed segment removes its companion, unless the key is in use again.
  A crash leaves a companion without a segment: empty, and taken over by the key's next user. So
  does another program that removes the segment when no process of this package has it attached.
"""

import errno
import os
from contextlib import suppress

from .. import _native
from .._failures import exists, parted
from ..errors import RegionExistsError, RegionFormatError
from . import companion
from .control import CONTROL_SIZE, unpack
from .mapping import Mapping
from .names import KEY_MAX, check_belongs, check_key, companion_path, name_of
from .ownership import KEPT, Owners, refused
from .presence import ALONE, SHARED
from .segment import Prepare
from .sysv_segment import SysvSegment, check

__all__ = ["attach", "create"]


# ---- create ------------------------------------------------------------------------


def create(
    key: int | None,
    size: int,
    *,
    mode: int,
    owners: Owners = KEPT,
    reserve: bool,
    head: bytes,
    tail: bytes,
    prepare: Prepare,
) -> tuple[SysvSegment, Mapping]:
    """Create a segment of `size` bytes that ends with `tail`.

    If `prepare` raises, no segment is left. With `key` None it takes an unused key.

    Raises:
        RegionExistsError: the key is taken. OSError: the kernel refuses the size.
    """
    assert not head  # no layout with a key has a header
    if key is not None:
        return _create(check_key(key), size, mode, owners, reserve, tail, prepare)
    while True:
        fresh = 1 + companion.random_below(KEY_MAX - 1)
        with suppress(RegionExistsError):  # one in four thousand million
            return _create(fresh, size, mode, owners, reserve, tail, prepare)


def _create(
    key: int,
    size: int,
    mode: int,
    owners: Owners,
    reserve: bool,
    tail: bytes,
    prepare: Prepare,
) -> tuple[SysvSegment, Mapping]:
    if _native.sysv_find(key) >= 0:
        raise exists(name_of(key))
    if not tail:  # raw: the kernel makes it in one step, and its lock can wait
        made = _make(key, size, mode, owners, reserve, b"", -1, prepare)
        if owners != KEPT:  # only this process can give the companion to them: make it now
            _ = made[0].fd
        return made
    fd = companion.open_or_make(key, ALONE, mode, owners, uid=os.geteuid(), owner=_trusted(owners))
    try:
        owners.give(fd, name_of(key))
        os.fchmod(fd, mode)
        companion.begin_work(fd)
        try:
            made = _make(key, size, mode, owners, reserve, tail, fd, prepare)
        except RegionExistsError:
            companion.work_is_done(fd)
            raise
        except BaseException:
            companion.bury(key, fd)
            raise
        companion.work_is_done(fd)
        companion.disclaim(fd, key)
    except BaseException:
        os.close(fd)
        raise
    return made


def _trusted(owners: Owners) -> str | int:
    """Return the owner of a companion that may be left: this user, or the segment's new owner."""
    return "me" if owners.uid < 0 else owners.uid


def _make(
    key: int,
    size: int,
    mode: int,
    owners: Owners,
    reserve: bool,
    tail: bytes,
    fd: int,
    prepare: Prepare,
) -> tuple[SysvSegment, Mapping]:
    number = _native.sysv_create(key, size, mode, reserve=reserve)
    if number < 0:
        raise _refused(-number, key, size)
    try:
        if owners != KEPT and _native.sysv_give(number, owners.uid, owners.gid) < 0:
            raise refused(name_of(key))
        code, facts = _native.sysv_stat(number)
        check(code, key, "look at the segment")
        made = SysvSegment(key, number, facts, fd, readonly=False, owner="me")
        mapping = prepare(made)
        if tail:
            mapping.memory[size - len(tail) :] = tail
            mapping.control().companion = made.cookie()
    except BaseException:
        _native.sysv_remove(number)
        raise
    return made, mapping


def _refused(code: int, key: int, size: int) -> OSError:
    if code == errno.EEXIST:
        return exists(name_of(key))
    why = os.strerror(code)
    if code == errno.EINVAL:
        why = f"SHMMAX allows {_limit('shmmax')} bytes (/proc/sys/kernel/shmmax)"
    elif code == errno.ENOSPC:
        why = (
            f"the host allows {_limit('shmmni')} segments (shmmni) of {_limit('shmall')} pages in "
            "all (shmall): remove some (ipcs -m, ipcrm), or raise these in /proc/sys/kernel"
        )
    return OSError(code, f"cannot make a segment of {size} bytes: {why}", name_of(key))


def _limit(name: str) -> str:
    try:
        with open(f"/proc/sys/kernel/{name}") as file:
            return file.read().strip()
    except OSError:
        return "an unknown number of"


# ---- attach ------------------------------------------------------------------------


def attach(key: int, *, readonly: bool, owner: str | int, header: int = 0) -> SysvSegment:
    """Find the segment with that key. Blocks while its creator writes the control page.

    Raises:
        RegionNotFoundError, RegionFormatError, PermissionError.
    """
    assert header == 0  # no layout with a key has a header
    number = _native.sysv_find(check_key(key))
    check(number, key, "find the segment")
    code, facts = _native.sysv_stat(number)
    check(code, key, "look at the segment", readonly=readonly)
    check_belongs(name_of(key), facts.uid, owner)
    fd = companion.open_known(key, SHARED, uid=facts.uid, owner=owner, readonly=readonly)
    wanted = _wanted_cookie(key, number, facts)
    if wanted and (fd is None or (wanted != companion.cookie_of(fd) and not companion.at_work(fd))):
        if fd is not None:
            os.close(fd)
        return _adopt(key, number, facts, readonly=readonly, owner=owner)
    if fd is None:  # another program made it
        return SysvSegment(key, number, facts, -1, readonly=readonly, owner=owner)
    try:
        if companion.at_work(fd):
            raise RegionFormatError(
                f"region {name_of(key)!r} is half-made, as its creator died: "
                "remove it with shm_async.prune(dry_run=False), then create it again"
            )
        companion.disclaim(fd, key)
        return SysvSegment(key, number, facts, fd, readonly=readonly, owner=owner)
    except BaseException:
        os.close(fd)
        raise


def _wanted_cookie(key: int, number: int, facts: _native.SysvFacts) -> int:
    """Return the cookie in the control page; 0: none, or there is no control page."""
    if facts.size < 2 * CONTROL_SIZE:
        return 0
    code, page = _native.sysv_read(number, facts.size - CONTROL_SIZE, CONTROL_SIZE)
    if code < 0:  # a caller that needs to read the page gets the error then
        return 0
    try:
        managed = unpack(page, facts.size, name_of(key)) is not None
    except RegionFormatError:
        return 0
    return int(_native.control_from_bytes(page).companion) if managed else 0


def _adopt(
    key: int, number: int, facts: _native.SysvFacts, *, readonly: bool, owner: str | int
) -> SysvSegment:
    """Give a segment to which no process is attached another companion.

    Raises:
        OSError: EIDRM, a process is attached, and may have a lock of the old companion.
    """
    if facts.attached or readonly:
        raise parted(name_of(key), companion_path(name_of(key)))
    fd = companion.open_or_make(
        key, ALONE, facts.mode, companion.whose(facts.uid, facts.gid), uid=facts.uid, owner=owner
    )
    try:
        code, now = _native.sysv_stat(number)
        check(code, key, "look at the segment")
        if now.attached:
            raise parted(name_of(key), companion_path(name_of(key)))
        found = SysvSegment(key, number, facts, fd, readonly=False, owner=owner)
        mapping = found.map(facts.size, readonly=False)  # attached until it is dropped
        mapping.control().companion = found.cookie()
        companion.disclaim(fd, key)
    except BaseException:
        os.close(fd)
        raise
    return found
