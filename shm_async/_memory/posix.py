"""POSIX shared-memory objects: create, attach, look at, unlink.

An object is a file in /dev/shm. It is made without a name, filled, and only then
linked, so no process ever sees a half-made one: see publish.py.
"""

import errno
import os
import time
from functools import partial

from .. import _native
from .._failures import exists, not_found
from ..errors import RegionFormatError, RegionNotFoundError, RegionSizeError
from . import leases, presence, room
from .descriptor import Descriptor
from .mapping import Mapping
from .names import FD_DIR, check_belongs, check_kind, identity_at, leads_to, path_of
from .ownership import KEPT, Owners
from .publish import fill, publish, reserve_memory
from .segment import Prepare, Whither

__all__ = ["PosixSegment", "attach", "create", "unlink"]

#: Attempts to look a name up: each failure means that it was removed or replaced meanwhile.
LOOK_UPS = 100

#: Seconds that `attach` waits for a creator that cannot make objects without a name.
CREATION_PATIENCE = 1.0


# ---- a segment -----------------------------------------------------------------


class PosixSegment:
    """A POSIX shared-memory object that this process has open: a Segment of segment.py.

    It is present (see presence.py) until `close`.
    """

    __slots__ = ("_descriptor", "borrowed", "name", "size")

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.size = os.fstat(fd).st_size  # bytes, when it was opened
        #: In a forked child: the description of `fd`, and its presence, are the parent's.
        self.borrowed = False
        self._descriptor = Descriptor(fd, path_of(name), name)

    def _announce(self, fd: int) -> None:
        presence.announce(fd, self.name)
        self.borrowed = False

    @property
    def key(self) -> None:
        return None

    @property
    def id(self) -> None:
        return None

    # ---- the object, which carries its own lock

    @property
    def fd(self) -> int:
        return self._descriptor.number(self._announce)

    def has_descriptor(self) -> bool:
        return self._descriptor.is_there()

    @property
    def mark(self) -> _native.Identity:
        return self._descriptor.mark

    @property
    def identity(self) -> tuple[int, int]:
        return self._descriptor.identity

    def lock_identity(self) -> tuple[int, int]:
        return self.identity

    def cookie(self) -> int:
        return 0

    def path(self) -> str:
        return self._descriptor.path

    def lock_size(self, mapped: int) -> int:
        return mapped

    # ---- its memory

    def whole(self, mapped: int) -> bool:
        return os.fstat(self.fd).st_size >= mapped

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def map(self, size: int, *, readonly: bool) -> Mapping:
        def place(address: _native.Address) -> None:
            _native.place(address, size, self.fd, writable=not readonly, name=self.name)

        return Mapping(size, place, readonly=readonly, name=self.name)

    def reserve(self, size: int) -> None:
        """Reserve memory that its creator did not, so that no store meets a full /dev/shm.

        Blocks while the kernel zeroes the memory. If that fails after a signal, the object may
        keep a part of the memory: other processes may use that part already.
        """
        found = os.fstat(self.fd)
        if found.st_blocks * 512 < found.st_size:
            room.check(self.name, size - found.st_blocks * 512, reserve=True)
            reserve_memory(self.fd, self.name, size)

    # ---- its name, and its end

    def name_leads(self) -> Whither:
        found = identity_at(self.name)
        return "nowhere" if found is None else "here" if found == self.identity else "elsewhere"

    def linked(self) -> bool:
        return leads_to(self.name, self.identity)

    def unlink(self) -> None:
        unlink(self.name, self.identity)

    def attachments(self) -> None:
        return None

    def is_last(self) -> bool:
        """Tell whether no other attachment of this package is left. Then no new one can attach."""
        return not self.borrowed and presence.take_alone(self.fd, self.name)

    def renew(self, mapping: Mapping) -> None:
        """Give a forked child its own presence, in place of its parent's.

        If the object cannot be opened again (no descriptor left, no permission any more), the
        child keeps its parent's presence, and never counts as the last attachment.
        """
        self.borrowed = True
        try:
            access = os.O_RDWR if self._descriptor.writable else os.O_RDONLY
            fd = leases.open_patiently(f"{FD_DIR}/{self.fd}", access, self.name)
        except OSError:
            return
        try:
            presence.announce(fd, self.name)
            mapping.move_to(fd)
            self._descriptor.replace_by(fd)
            self.borrowed = False
        except OSError:
            pass
        finally:
            os.close(fd)

    def close(self) -> None:
        fd = self._descriptor.give_up()
        if fd is not None:
            if not self.borrowed:
                presence.leave(fd, self.name)
            os.close(fd)


# ---- create ------------------------------------------------------------------


def create(
    name: str,
    size: int,
    *,
    mode: int,
    owners: Owners = KEPT,
    reserve: bool,
    head: bytes,
    tail: bytes,
    prepare: Prepare,
) -> tuple[PosixSegment, Mapping]:
    """Create an object of `size` bytes that begins with `head` and ends with `tail`.

    `prepare` is called before another process can see the object. If it raises, no object is
    left. Blocks while the kernel reserves (zeroes) memory.

    Raises:
        RegionExistsError: the name is taken. OSError: ENOSPC, with the bytes that are free.
    """
    if os.path.lexists(path_of(name)):
        raise exists(name)
    make_whole = partial(
        fill, name=name, size=size, mode=mode, reserve=reserve, head=head, tail=tail
    )

    def make(fd: int) -> tuple[PosixSegment, Mapping]:
        owners.give(fd, name)  # before its mode lets others open it
        make_whole(fd)
        presence.announce(fd, name)
        made = PosixSegment(fd, name)
        return made, prepare(made)

    return publish(name, make)


# ---- attach ------------------------------------------------------------------


def attach(
    name: str, *, readonly: bool, owner: str | int, header: int = 0, tries: int = LOOK_UPS
) -> PosixSegment:
    """Open an existing object that is not empty.

    Never creates, truncates or unlinks anything, and never hangs on a file that is not a
    shared-memory object. Blocks up to CREATION_PATIENCE while the object is empty, or its
    first `header` bytes are zero: its creator writes them last.

    Raises:
        RegionNotFoundError, RegionFormatError, RegionSizeError, PermissionError.
    """
    try:
        return _attach(name, readonly=readonly, owner=owner, header=header)
    except RegionNotFoundError:
        if tries == 1 or not os.path.lexists(path_of(name)):
            raise
    # another object has got the name just now
    return attach(name, readonly=readonly, owner=owner, header=header, tries=tries - 1)


def _attach(name: str, *, readonly: bool, owner: str | int, header: int) -> PosixSegment:
    access = os.O_RDONLY if readonly else os.O_RDWR
    try:
        fd = leases.open_patiently(path_of(name), access | os.O_NOFOLLOW, name)
    except OSError as error:
        raise _cannot_open(name, error, readonly=readonly) from None
    try:
        found = os.fstat(fd)
        check_kind(name, found.st_mode)
        check_belongs(name, found.st_uid, owner)
        presence.announce(fd, name)
        _wait_for_content(fd, name, header)
        return PosixSegment(fd, name)
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


def _wait_for_content(fd: int, name: str, header: int) -> None:
    deadline = time.monotonic() + CREATION_PATIENCE
    while True:
        found = os.fstat(fd)
        _check_links(name, found.st_nlink)
        if found.st_size and (not header or any(os.pread(fd, header, 0))):
            return
        if time.monotonic() > deadline:
            if found.st_size:
                return  # the check of its layout raises the right error
            raise RegionSizeError(
                f"region {name!r} has been empty for {CREATION_PATIENCE} s: "
                f"its creator seems to have died: remove {path_of(name)}"
            )
        time.sleep(0.001)


def _check_links(name: str, links: int) -> None:
    if links == 0:
        raise not_found(name, "the region was unlinked just now")
    if links > 1:
        raise RegionFormatError(
            f"{path_of(name)} has {links} hard links, but a shared-memory object has one: "
            "remove its other names"
        )


# ---- unlink ------------------------------------------------------------------


def unlink(name: str, identity: tuple[int, int]) -> None:
    """Remove the name if it leads to the object with this (st_dev, st_ino).

    Raises:
        RegionNotFoundError: the name leads to nothing, or to another object.
    """
    if not leads_to(name, identity):
        raise not_found(name, "the name was removed or now leads to another object")
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        raise not_found(name, "the name was removed just now") from None
