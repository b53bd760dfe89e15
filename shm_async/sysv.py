"""System V segments: create, attach, look at, remove; and the objects that carry their locks.

A System V segment has no descriptor that could take flock(2). So its lock lives on an
empty POSIX object, its *companion*, which all of us find by the segment's key. The protocol:

* Who creates a managed segment first has the companion, claims its creation byte, makes
  the segment, writes the control page, and lets go. Who attaches looks for the segment
  first and then passes through the creation byte, so it meets no half-made one. While the
  creator is at it the companion has its pid as content; one that keeps it was left by a
  dead creator, and a segment that was made by that pid is half-made.
* A segment that others made has no companion until the first of us locks it.
* Who removes a segment holds the creation byte, removes the segment first and the companion
  then: nobody makes another companion for a segment that lives.
* Who closes a segment that is gone removes its companion, unless the key is in use again.
  A crash leaves a companion without a segment: empty, and taken over by the key's next user.
  So does a program that knows nothing of it and removes the segment when all of us are gone.
"""

import errno
import fcntl
import os
import random
import struct
from contextlib import suppress
from functools import partial
from threading import Lock

from . import _native, presence, segment
from .errors import RegionExistsError, RegionFormatError, RegionSizeError
from .mapping import Mapping
from .presence import ALONE, SHARED
from .segment import Prepare, Segment

KEY_MAX = 2**32 - 1

#: The byte of a companion that creators and removers claim; far from those of the gate.
CREATION_BYTE = (1 << 62) + 64

#: What a companion has in it while a creator is at work: its pid.
AT_WORK = struct.Struct("@I")

NOT_YET, CLOSED = -1, -2  # instead of a descriptor
GONE = (-errno.EINVAL, -errno.EIDRM, -errno.ENOENT)


def check_key(key: int) -> int:
    """Return `key` if it is a System V key.

    Raises:
        TypeError: not an int. ValueError: out of range.
    """
    if isinstance(key, bool) or not isinstance(key, int):
        raise TypeError(f"a key must be an int, not {type(key).__name__}")
    if key == 0:
        raise ValueError("key 0 is IPC_PRIVATE, which nobody else can find: use None for a new key")
    if not 0 < key <= KEY_MAX:
        raise ValueError(f"a key must be between 1 and {KEY_MAX:#x}, not {key:#x}")
    return key


def name_of(key: int) -> str:
    """How a segment is called in messages."""
    return f"{key:#010x}"


def companion_of(key: int) -> str:
    """The name of the object that carries the segment's lock."""
    return f"{segment.COMPANION}{key:08x}"


class SysvSegment(Segment):
    """A System V segment that this process uses; `fd` is its companion's, once it has one."""

    __slots__ = ("_fd", "_id", "_key", "_making", "_mode", "_owner", "_readonly", "_uid")

    # Invariant: identity is the companion's once there was an _fd; _fd is NOT_YET before
    # that and CLOSED at the end.

    def __init__(
        self,
        key: int,
        number: int,
        facts: _native.SysvFacts,
        fd: int,
        *,
        readonly: bool,
        owner: str,
    ) -> None:
        self._key = key
        self._id = number
        self._fd = NOT_YET
        self._making = Lock()
        self._mode = facts.mode
        self._uid = facts.uid
        self._readonly = readonly
        self._owner = owner
        self.name = name_of(key)
        self.size = facts.size
        self.identity = (0, 0)
        self.borrowed = False
        if fd >= 0:
            self._have(fd)

    def _have(self, fd: int) -> None:
        found = os.fstat(fd)
        self.identity = (found.st_dev, found.st_ino)
        self._fd = fd

    @property
    def fd(self) -> int:  # type: ignore[override]  # made when it is first asked for
        """The companion's descriptor."""
        if self._fd == NOT_YET:
            with self._making:
                if self._fd == NOT_YET:
                    self._have(self._companion())
        return self._fd

    def _companion(self) -> int:
        fd = _companion(
            self._key, SHARED, self._mode, uid=self._uid, owner=self._owner, readonly=self._readonly
        )
        _disclaim(fd, self._key)
        return fd

    @property
    def key(self) -> int:
        """Its key."""
        return self._key

    @property
    def id(self) -> int:
        """Its shmid."""
        return self._id

    def lock_identity(self) -> tuple[int, int] | None:
        """That of the companion, which is looked for and not made."""
        if self._fd >= 0:
            return self.identity
        try:
            found = os.lstat(self.path())
        except FileNotFoundError:
            return None
        return (found.st_dev, found.st_ino)

    def attachments(self) -> int:
        """shm_nattch.

        Raises:
            RegionNotFoundError: it was removed, and nobody is attached any more.
        """
        code, facts = _native.sysv_stat(self._id)
        _check(code, self._key, "look at the segment")
        return int(facts.attached)

    def path(self) -> str:
        return segment.path_of(companion_of(self._key))

    def lock_size(self, mapped: int) -> int:
        return 0  # of the companion; a segment cannot shrink

    def whole(self, mapped: int) -> bool:
        return True

    def read(self, offset: int, size: int) -> bytes:
        code, data = _native.sysv_read(self._id, offset, size)
        _check(code, self._key, "read the segment")
        return data

    def map(self, size: int, *, readonly: bool) -> Mapping:
        """Attach it, whole."""

        def place(address: _native.Address) -> None:
            code = _native.sysv_place(self._id, address, writable=not readonly)
            _check(code, self._key, "attach the segment", readonly=readonly)

        return Mapping(self.size, place, readonly=readonly, name=self.name)

    def reserve(self, size: int) -> None:
        """Nothing: the kernel has accounted for it, and its pages cannot meet a full /dev/shm."""

    def linked(self) -> bool:
        return _native.sysv_find(self._key) == self._id

    def unlink(self) -> None:
        """Remove the segment; it goes with its last attachment. Works on a closed one, too.

        Raises:
            RegionNotFoundError: it was removed already. PermissionError: it is another user's.
        """
        if not self.linked():
            raise segment.not_found(self.name, "it was removed, or its key leads to another one")
        fd = _known_companion(self._key, ALONE, uid=self._uid, owner=self._owner)
        try:
            _check(_native.sysv_remove(self._id), self._key, "remove the segment")
            if fd is not None:
                _bury(self._key, fd)
        finally:
            if fd is not None:
                os.close(fd)

    def is_last(self) -> bool:
        """Whether nobody, not even this process, has it attached any more.

        For who is about to close it, and has let go of the mapping.
        """
        code, facts = _native.sysv_stat(self._id)
        return code == 0 and facts.attached == 0

    def renew(self, mapping: Mapping) -> None:
        """Nothing: the kernel counts a forked child's attachment."""

    def close(self) -> None:
        """Close `fd`, and remove the companion of a segment that is gone."""
        with self._making:
            fd, self._fd = self._fd, CLOSED
        if fd < 0:
            return
        if _native.sysv_find(self._key) == -errno.ENOENT:
            with suppress(OSError):
                _claim(fd, self._key, ALONE)
                if segment.leads_to(companion_of(self._key), self.identity):
                    _bury(self._key, fd)
        os.close(fd)


# ---- create ------------------------------------------------------------------------


def create(
    key: int | None,
    size: int,
    *,
    mode: int,
    reserve: bool,
    head: bytes,
    tail: bytes,
    prepare: Prepare,
) -> tuple[Segment, Mapping]:
    """Create a segment of `size` bytes that ends with `tail`.

    When `prepare` raises, there is no segment. `key` None takes a key that is free.

    Raises:
        RegionExistsError: the key is taken. OSError: the kernel refuses the size.
    """
    assert not head  # no layout of a key has one
    if key is not None:
        return _create(check_key(key), size, mode, reserve, tail, prepare)
    while True:
        fresh = random.SystemRandom().randint(1, KEY_MAX - 1)
        with suppress(RegionExistsError):  # one in four thousand million
            return _create(fresh, size, mode, reserve, tail, prepare)


def _create(
    key: int, size: int, mode: int, reserve: bool, tail: bytes, prepare: Prepare
) -> tuple[Segment, Mapping]:
    if _native.sysv_find(key) >= 0:
        raise _exists(key)
    if not tail:  # raw: the kernel makes it in one step, and its lock can wait
        return _make(key, size, mode, reserve, b"", -1, prepare)
    fd = _companion(key, ALONE, mode, uid=os.geteuid(), owner="me")
    try:
        os.fchmod(fd, mode)
        os.pwrite(fd, AT_WORK.pack(os.getpid()), 0)
        try:
            made = _make(key, size, mode, reserve, tail, fd, prepare)
        except RegionExistsError:
            os.ftruncate(fd, 0)
            raise
        except BaseException:
            _bury(key, fd)
            raise
        os.ftruncate(fd, 0)
        _disclaim(fd, key)
    except BaseException:
        os.close(fd)
        raise
    return made


def _make(
    key: int, size: int, mode: int, reserve: bool, tail: bytes, fd: int, prepare: Prepare
) -> tuple[Segment, Mapping]:
    number = _native.sysv_create(key, size, mode, reserve=reserve)
    if number < 0:
        raise _refused(-number, key, size)
    try:
        code, facts = _native.sysv_stat(number)
        _check(code, key, "look at the segment")
        made = SysvSegment(key, number, facts, fd, readonly=False, owner="me")
        mapping = prepare(made)
        if tail:
            mapping.memory[size - len(tail) :] = tail
    except BaseException:
        _native.sysv_remove(number)
        raise
    return made, mapping


def check_size(name: str, size: int, *, reserve: bool) -> None:
    """Refuse at once what can never fit: reserving it would bring the out-of-memory killer.

    Raises:
        OSError: ENOMEM or EFBIG.
    """
    if reserve and size > segment.available_memory():
        raise segment.no_memory(name, size)
    segment.check_possible(name, size)


def _refused(code: int, key: int, size: int) -> OSError:
    if code == errno.EEXIST:
        return _exists(key)
    why = os.strerror(code)
    if code == errno.EINVAL:
        why = f"SHMMAX allows {_limit('shmmax')} bytes (/proc/sys/kernel/shmmax)"
    elif code == errno.ENOSPC:
        why = (
            f"there may be {_limit('shmmni')} segments (shmmni) of {_limit('shmall')} pages "
            "together (shmall): remove some (ipcs -m, ipcrm), or raise these in /proc/sys/kernel"
        )
    return OSError(code, f"cannot make a segment of {size} bytes: {why}", name_of(key))


def _limit(name: str) -> str:
    try:
        with open(f"/proc/sys/kernel/{name}") as file:
            return file.read().strip()
    except OSError:
        return "an unknown number of"


def _exists(key: int) -> RegionExistsError:
    return segment.exists(name_of(key))


# ---- attach ------------------------------------------------------------------------


def attach(key: int, *, readonly: bool, owner: str, header: int = 0) -> Segment:
    """Find the segment with that key. Blocks while its creator writes the control page.

    Raises:
        RegionNotFoundError, RegionFormatError, PermissionError.
    """
    assert header == 0  # a key has no layout with a header
    number = _native.sysv_find(check_key(key))
    _check(number, key, "find the segment")
    code, facts = _native.sysv_stat(number)
    _check(code, key, "look at the segment", readonly=readonly)
    segment.check_belongs(name_of(key), facts.uid, owner)
    fd = _known_companion(key, SHARED, uid=facts.uid, owner=owner, readonly=readonly)
    if fd is None:  # others made it
        return SysvSegment(key, number, facts, -1, readonly=readonly, owner=owner)
    try:
        if os.fstat(fd).st_size:
            raise RegionFormatError(
                f"region {name_of(key)!r} is half-made, its creator died: "
                "shm_async.prune(dry_run=False) removes it, then create it again"
            )
        _disclaim(fd, key)
        return SysvSegment(key, number, facts, fd, readonly=readonly, owner=owner)
    except BaseException:
        os.close(fd)
        raise


def _check(code: int, key: int, doing: str, *, readonly: bool = False) -> None:
    if code >= 0:
        return
    name = name_of(key)
    if code in GONE:
        raise segment.not_found(name, "there is no such segment: create it, or use Region.open")
    if code in (-errno.EACCES, -errno.EPERM):
        hint = "" if readonly else "; try readonly=True, if it is to be read"
        raise PermissionError(-code, f"no permission to {doing}{hint}", name)
    if code == -errno.ERANGE:
        raise RegionSizeError(f"region {name!r} is smaller than it was: its key was used again")
    _native.check(code, doing, name)


# ---- the companion -------------------------------------------------------------------


def _companion(
    key: int, claim: int, mode: int, *, uid: int, owner: str, readonly: bool = False
) -> int:
    """Open the companion, making it if there is none, with its creation byte claimed.

    It must belong to me, root, or the segment's owner `uid`: whoever owns it could replace
    it, and so part those who lock it.
    """
    for _ in range(segment.TRIES):
        fd = _known_companion(key, claim, uid=uid, owner=owner, readonly=readonly)
        if fd is not None:
            return fd
        with suppress(RegionExistsError):  # somebody was faster
            os.close(segment.publish(companion_of(key), partial(_empty, mode=mode)))
    raise OSError(errno.EBUSY, f"{_path(key)} comes and goes: try again", name_of(key))


def _empty(fd: int, *, mode: int) -> int:
    os.fchmod(fd, mode)
    return fd


def _known_companion(
    key: int, claim: int, *, uid: int, owner: str, readonly: bool = False
) -> int | None:
    """Open the companion, with its creation byte claimed; None if there is none."""
    try:
        fd = _open(_path(key), readonly)
    except FileNotFoundError:
        return None
    except OSError:
        segment.check_kind(companion_of(key), os.lstat(_path(key)).st_mode)  # a better answer
        raise
    try:
        found = os.fstat(fd)
        segment.check_kind(companion_of(key), found.st_mode)
        if found.st_uid != uid:
            segment.check_belongs(companion_of(key), found.st_uid, owner)
        _claim(fd, key, claim)
        if segment.leads_to(companion_of(key), (found.st_dev, found.st_ino)):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)  # removed meanwhile
    return None


def _path(key: int) -> str:
    return segment.path_of(companion_of(key))


def _open(path: str, readonly: bool) -> int:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if not readonly:
        with suppress(PermissionError):  # then for reading: it can carry a flock all the same
            return os.open(path, flags | os.O_RDWR)
    return os.open(path, flags | os.O_RDONLY)


def _claim(fd: int, key: int, kind: int) -> None:
    """Claim the creation byte; whoever has it needs microseconds, if it is not stopped."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        kind = SHARED  # all that the kernel allows
    presence.claim_patiently(fd, CREATION_BYTE, kind, name_of(key), "creating or removing")


def _disclaim(fd: int, key: int) -> None:
    _native.claim(fd, CREATION_BYTE, presence.NOBODY, name_of(key))


def _bury(key: int, fd: int) -> None:
    """Remove the claimed companion of a segment that is gone; who may not leaves it."""
    if _native.sysv_find(key) == -errno.ENOENT:
        with suppress(FileNotFoundError, PermissionError):
            os.unlink(_path(key))
