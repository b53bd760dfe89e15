"""POSIX shared-memory objects: create, attach, look at, unlink.

An object is a file in /dev/shm. It is made without a name, filled, and only then
linked, so nobody ever sees a half-made one.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from . import _native, presence
from .errors import RegionExistsError, RegionFormatError, RegionNotFoundError, RegionSizeError
from .mapping import Mapping

T = TypeVar("T")

SHM_DIR = "/dev/shm"
FD_DIR = "/proc/self/fd"
NAME_MAX = 255  # bytes
COMPANION = "shm_async.sysv."  # begins the names of the objects that sysv.py keeps its locks on
SUCCESSOR = "shm_async.resize."  # begins the names of those that are about to replace another
CHUNK = 1 << 20  # bytes that are copied at once
OFF_MAX = 2**63 - 1  # bytes: what the kernel's off_t can say

#: How often a name is looked up: each failure means that it was removed or replaced meanwhile.
TRIES = 100

#: Seconds that `attach` gives a creator which cannot make objects without a name.
CREATION_PATIENCE = 1.0

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# ---- names -------------------------------------------------------------------


def check_name(name: str) -> str:
    """Return `name` without its optional leading slash.

    Raises:
        TypeError: not a str. ValueError: says which rule the name breaks.
    """
    if not isinstance(name, str):
        raise TypeError(f"a region's name must be a str, not {type(name).__name__}")
    bare = name.removeprefix("/")
    if not bare:
        raise ValueError(f"a region's name must not be empty: {name!r}")
    if "/" in bare:
        raise ValueError(f"a region's name must not contain '/' but in front: {name!r}")
    if "\0" in bare:
        raise ValueError(f"a region's name must not contain NUL: {name!r}")
    if bare in (".", ".."):
        raise ValueError(f"a region's name must not be '.' or '..': {name!r}")
    if bare.startswith((COMPANION, SUCCESSOR)):
        raise ValueError(f"names that begin like this one are for our own use: {name!r}")
    if len(os.fsencode(bare)) > NAME_MAX:
        raise ValueError(f"a region's name must have at most {NAME_MAX} bytes: {name!r}")
    return bare


def check_mode(mode: int) -> int:
    """Return `mode` if it is a set of permission bits, else raise TypeError or ValueError."""
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"mode must be an int such as 0o600, not {type(mode).__name__}")
    if not 0 <= mode <= 0o777:
        raise ValueError(f"mode must be between 0 and 0o777, not {mode:#o}")
    return mode


def path_of(name: str) -> str:
    """Where the object with this (checked) name lives."""
    return f"{SHM_DIR}/{name}"


# ---- a segment -----------------------------------------------------------------


class Segment:
    """A POSIX shared-memory object that this process has open.

    `fd` never takes a flock itself, so that a forked child may keep it without keeping
    a lock. It is what the locks' own descriptors are opened from, and it is present (see
    presence.py) until `close`.
    """

    __slots__ = ("borrowed", "fd", "identity", "name", "size")

    borrowed: bool  # in a forked child: what `fd` refers to, and its presence, are the parent's

    def __init__(self, fd: int, name: str) -> None:
        found = os.fstat(fd)
        self.fd = fd
        self.identity = (found.st_dev, found.st_ino)
        self.name = name
        self.size = found.st_size  # bytes, when it was opened
        self.borrowed = False

    @property
    def key(self) -> int | None:
        """The System V key."""
        return None

    @property
    def id(self) -> int | None:
        """The System V id."""
        return None

    def lock_identity(self) -> tuple[int, int] | None:
        """st_dev and st_ino of the object that is locked; None: there is none yet."""
        return self.identity

    def attachments(self) -> int | None:
        """How many mappings of it there are, in all processes; None: the kernel does not tell."""
        return None

    def path(self) -> str:
        """Where `fd` can be opened again if there is no /proc."""
        return path_of(self.name)

    def lock_size(self, mapped: int) -> int:
        """Bytes that the object behind `fd` must have as long as `mapped` bytes are mapped."""
        return mapped

    def whole(self, mapped: int) -> bool:
        """Whether it still has the first `mapped` bytes: else touching them is SIGBUS."""
        return os.fstat(self.fd).st_size >= mapped

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes of it, or fewer if it ends before."""
        return os.pread(self.fd, size, offset)

    def map(self, size: int, *, readonly: bool) -> Mapping:
        """Map its first `size` bytes."""

        def place(address: _native.Address) -> None:
            _native.place(address, size, self.fd, writable=not readonly, name=self.name)

        return Mapping(size, place, readonly=readonly, name=self.name)

    def reserve(self, size: int) -> None:
        """Reserve what its creator left out, so that no store of ours meets a full /dev/shm.

        Blocks while the kernel zeroes the memory.
        """
        found = os.fstat(self.fd)
        if found.st_blocks * 512 < found.st_size:
            check_size(self.name, size - found.st_blocks * 512, reserve=True)
            _reserve(self.fd, self.name, size)

    def linked(self) -> bool:
        """Whether its name still leads to it."""
        return leads_to(self.name, self.identity)

    def unlink(self) -> None:
        """Remove its name. Works on a closed segment, too.

        Raises:
            RegionNotFoundError: the name leads to nothing, or to another object.
        """
        unlink(self.name, self.identity)

    def is_last(self) -> bool:
        """Whether no other attachment of this package is left. Nobody may join afterwards.

        For who is about to close it.
        """
        return not self.borrowed and presence.take_alone(self.fd, self.name)

    def renew(self, mapping: Mapping) -> None:
        """In a forked child: be present on its own account, not on its parent's.

        Where that cannot be had (no descriptor left, no permission any more) it goes on as
        it is: it counts as its parent's, and never for the last one.
        """
        self.borrowed = True
        writable = fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        try:
            fd = os.open(f"{FD_DIR}/{self.fd}", os.O_RDWR if writable else os.O_RDONLY)
        except OSError:
            return
        try:
            presence.announce(fd, self.name)
            mapping.move_to(fd)
            os.dup2(fd, self.fd, inheritable=False)
            self.borrowed = False
        except OSError:
            pass
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close `fd`, and be present no more, even if views keep the memory mapped."""
        if not self.borrowed:
            presence.leave(self.fd, self.name)
        os.close(self.fd)


#: Maps a new segment, before anybody else can see it.
Prepare = Callable[[Segment], Mapping]


# ---- create ------------------------------------------------------------------


def create(
    name: str,
    size: int,
    *,
    mode: int,
    reserve: bool,
    head: bytes,
    tail: bytes,
    prepare: Prepare,
) -> tuple[Segment, Mapping]:
    """Create an object of `size` bytes that begins with `head` and ends with `tail`.

    `prepare` is called before anybody can see the object; when it raises, there is no
    object. Blocks while the kernel reserves (zeroes) memory.

    Raises:
        RegionExistsError: the name is taken. OSError: ENOSPC, says what is free.
    """
    if os.path.lexists(path_of(name)):
        raise exists(name)
    fill = partial(_fill, name=name, size=size, mode=mode, reserve=reserve, head=head, tail=tail)

    def make(fd: int) -> tuple[Segment, Mapping]:
        fill(fd)
        presence.announce(fd, name)
        made = Segment(fd, name)
        return made, prepare(made)

    return publish(name, make)


def publish(name: str, make: Callable[[int], T]) -> T:
    """Give a name to a new object after `make` has made it what it shall be.

    Raises:
        RegionExistsError: the name is taken.
    """
    try:
        fd = os.open(SHM_DIR, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # no O_TMPFILE here
            raise
        return _publish_by_name(name, make)
    try:
        made = make(fd)
        _link(fd, name)
    except FileNotFoundError:  # no /proc to link from
        os.close(fd)
        return _publish_by_name(name, make)
    except BaseException:
        os.close(fd)
        raise
    return made


def _publish_by_name(name: str, make: Callable[[int], T]) -> T:
    """Create where O_TMPFILE or /proc is missing.

    The object has its name at once, but no size; its last step gives it size and
    content together. Who attaches meanwhile meets an empty object, and waits.
    """
    try:
        fd = os.open(path_of(name), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise exists(name) from None
    try:
        return make(fd)
    except BaseException:
        os.unlink(path_of(name))  # ours; who attached just now has an orphan
        os.close(fd)
        raise


def _fill(
    fd: int, *, name: str, size: int, mode: int, reserve: bool, head: bytes, tail: bytes
) -> None:
    """Give an empty object its mode, its memory and, last, its size and content."""
    os.fchmod(fd, mode)  # umask has no say
    if reserve:
        _reserve(fd, name, size)
    try:
        if tail:
            os.pwrite(fd, tail, size - len(tail))  # one page: size and content appear as one
        else:
            os.ftruncate(fd, size)
        if head:
            os.pwrite(fd, head, 0)  # who sees zeroes there waits
    except OSError as error:
        raise OSError(error.errno, f"cannot make {size} bytes: {error.strerror}", name) from None


def _link(fd: int, name: str) -> None:
    directory = os.open(SHM_DIR, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # with a dir_fd it is linkat(AT_SYMLINK_FOLLOW); plain link() would link the /proc entry
        os.link(f"{FD_DIR}/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        raise exists(name) from None
    finally:
        os.close(directory)


def check_size(name: str, size: int, *, reserve: bool) -> None:
    """Refuse at once what can never fit: trying would first use up all there is.

    Raises:
        OSError: ENOSPC, ENOMEM (reserving it would bring the out-of-memory killer) or EFBIG.
    """
    if reserve and size > free_bytes():
        raise _no_room(name, size)
    if reserve and size > available_memory():
        raise no_memory(name, size)
    check_possible(name, size)


def check_possible(name: str, size: int) -> None:
    """Refuse more bytes than the kernel can count, with EFBIG."""
    if size > OFF_MAX:
        raise OSError(errno.EFBIG, f"{size} bytes wanted, no object can have so many", name)


def free_bytes() -> int:
    """Bytes that /dev/shm has left."""
    room = os.statvfs(SHM_DIR)
    return room.f_bavail * room.f_frsize


def available_memory() -> int:
    """Bytes of memory and swap that the machine could still give; OFF_MAX without /proc."""
    try:
        with open("/proc/meminfo") as file:
            kilobytes = dict(line.split()[:2] for line in file)
    except OSError:
        return OFF_MAX
    return (int(kilobytes["MemAvailable:"]) + int(kilobytes["SwapFree:"])) * 1024


def no_memory(name: str, size: int) -> OSError:
    """The exception for more than memory and swap can hold."""
    return OSError(
        errno.ENOMEM,
        f"{size} bytes wanted, {available_memory()} bytes of memory and swap available: "
        "ask for less, or create it with reserve=False",
        name,
    )


def _no_room(name: str, size: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"{size} bytes wanted, {free_bytes()} bytes free in {SHM_DIR}: "
        "remove regions that nobody uses, or make it larger "
        f"(mount -o remount,size=... {SHM_DIR}; docker run --shm-size=...)",
        name,
    )


def exists(name: str) -> RegionExistsError:
    """The exception for a name, or a key, that is taken."""
    return RegionExistsError(
        errno.EEXIST, "the region exists already: attach to it, or use Region.open", name
    )


# ---- replace -----------------------------------------------------------------


def replace(
    old: Segment,
    size: int,
    *,
    reserve: bool,
    tail: bytes,
    prepare: Prepare,
    about_to_rename: Callable[[], None],
) -> tuple[Segment, Mapping]:
    """Put an object of `size` bytes, with the mode and owner of `old`, in the place of it.

    `about_to_rename` is called when the new one is complete. When anything raises, `old` has
    its name still. Who is killed may leave the new one under a name of its own (SUCCESSOR).

    Raises:
        RegionNotFoundError: the name leads to `old` no more. OSError.
    """
    name = old.name
    facts = os.fstat(old.fd)
    mode = stat.S_IMODE(facts.st_mode)

    def make(fd: int) -> tuple[Segment, Mapping]:
        if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, facts.st_uid, facts.st_gid)
        _fill(fd, name=name, size=size, mode=mode, reserve=reserve, head=b"", tail=tail)
        presence.announce(fd, name)
        made = Segment(fd, name)
        return made, prepare(made)

    temporary = f"{SUCCESSOR}{secrets.token_hex(8)}"
    made = publish(temporary, make)
    try:
        if not old.linked():
            raise not_found(name, "the name was removed or now leads to another object")
        about_to_rename()
        os.rename(path_of(temporary), path_of(name))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path_of(temporary))
        made[0].close()
        raise
    return made


def copy_sparsely(source: Segment, target: Segment, size: int) -> None:
    """Copy the first `size` bytes, and leave holes as they are.

    Raises:
        OSError: ENOSPC.
    """
    end = 0
    with suppress(_OnlyHolesError):
        while end < size:
            start = _seek(source.fd, end, os.SEEK_DATA)
            end = min(size, _seek(source.fd, start, os.SEEK_HOLE))
            _copy(source, target, start, end)


class _OnlyHolesError(Exception):
    """Raised by `_seek` when only holes follow."""


def _seek(fd: int, offset: int, whence: int) -> int:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        raise _OnlyHolesError if error.errno == errno.ENXIO else error from None


def _copy(source: Segment, target: Segment, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source.fd, min(end - start, CHUNK), start)
        try:
            start += os.pwrite(target.fd, data, start)
        except OSError as error:
            raise _no_room(source.name, end) if error.errno == errno.ENOSPC else error from None


# ---- attach ------------------------------------------------------------------


def attach(
    name: str, *, readonly: bool, owner: str, header: int = 0, tries: int = TRIES
) -> Segment:
    """Open an existing object that is not empty.

    Never creates, truncates or unlinks anything, and never hangs on what is no
    shared-memory object. Blocks up to CREATION_PATIENCE on an empty object, or one
    whose first `header` bytes are zero: their creators write them last.

    Raises:
        RegionNotFoundError, RegionFormatError, RegionSizeError, PermissionError.
    """
    try:
        return _attach(name, readonly=readonly, owner=owner, header=header)
    except RegionNotFoundError:
        if tries == 1 or not os.path.lexists(path_of(name)):
            raise
    # another one has got the name just now
    return attach(name, readonly=readonly, owner=owner, header=header, tries=tries - 1)


def _attach(name: str, *, readonly: bool, owner: str, header: int) -> Segment:
    access = os.O_RDONLY if readonly else os.O_RDWR
    try:
        fd = os.open(path_of(name), access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(name, error, readonly=readonly) from None
    try:
        found = os.fstat(fd)
        check_kind(name, found.st_mode)
        check_belongs(name, found.st_uid, owner)
        presence.announce(fd, name)
        _wait_for_content(fd, name, header)
        return Segment(fd, name)
    except BaseException:
        os.close(fd)
        raise


def _cannot_open(name: str, error: OSError, *, readonly: bool) -> Exception:
    if error.errno == errno.ENOENT:
        return not_found(name, "there is no such region: create it, or use Region.open")
    if error.errno == errno.EACCES:
        hint = "no permission to read it" if readonly else "no permission: try readonly=True"
        return PermissionError(errno.EACCES, hint, name)
    try:
        check_kind(name, os.lstat(path_of(name)).st_mode)
    except (FileNotFoundError, RegionFormatError) as better:
        return better
    return OSError(error.errno, f"cannot open it: {error.strerror}", name)


def check_kind(name: str, mode: int) -> None:
    """Refuse what is no regular file: RegionFormatError."""
    for is_kind, kind in KINDS:
        if is_kind(mode):
            raise RegionFormatError(f"{path_of(name)} is {kind}, not a shared-memory object")


def check_belongs(name: str, uid: int, owner: str) -> None:
    """Refuse what belongs to another user than me or root, if `owner` is "me"."""
    if owner == "me" and uid not in (os.geteuid(), 0):
        raise PermissionError(
            errno.EACCES,
            f"the region belongs to user {uid}, not to you ({os.geteuid()}) or root: "
            "attach with owner='any' if you trust that user",
            name,
        )


def _wait_for_content(fd: int, name: str, header: int) -> None:
    deadline = time.monotonic() + CREATION_PATIENCE
    while True:
        found = os.fstat(fd)
        _check_links(name, found.st_nlink)
        if found.st_size and (not header or any(os.pread(fd, header, 0))):
            return
        if time.monotonic() > deadline:
            if found.st_size:
                return  # its layout will say what is wrong
            raise RegionSizeError(
                f"region {name!r} has been empty for {CREATION_PATIENCE} s: "
                f"its creator seems to have died; remove {path_of(name)}"
            )
        time.sleep(0.001)


def _check_links(name: str, links: int) -> None:
    if links == 0:
        raise not_found(name, "the region was unlinked just now")
    if links > 1:
        raise RegionFormatError(
            f"{path_of(name)} has {links} hard links, and a shared-memory object has one: "
            "somebody linked it to another name"
        )


def _reserve(fd: int, name: str, size: int) -> None:
    try:
        _native.reserve(fd, size, name)
    except OSError as error:
        raise _no_room(name, size) if error.errno == errno.ENOSPC else error from None


# ---- unlink ------------------------------------------------------------------


def leads_to(name: str, identity: tuple[int, int]) -> bool:
    """Whether the name still leads to the object with this (st_dev, st_ino)."""
    try:
        found = os.lstat(path_of(name))
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == identity


def unlink(name: str, identity: tuple[int, int]) -> None:
    """Remove the name if it leads to the object with this (st_dev, st_ino).

    Raises:
        RegionNotFoundError: it leads to nothing, or to another object.
    """
    if not leads_to(name, identity):
        raise not_found(name, "the name was removed or now leads to another object")
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        raise not_found(name, "the name was removed just now") from None


def not_found(name: str, why: str) -> RegionNotFoundError:
    """The exception for what is not there."""
    return RegionNotFoundError(errno.ENOENT, why, name)
