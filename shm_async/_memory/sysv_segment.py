"""A System V segment that this process uses."""

import errno
import os
from contextlib import suppress

from .. import _native
from .._failures import not_found
from .._forks import undivided
from ..errors import RegionSizeError
from . import companion
from .descriptor import Descriptor
from .mapping import Mapping
from .names import companion_of, identity_at, leads_to, name_of, path_of
from .presence import ALONE, SHARED
from .segment import Whither

__all__ = ["SysvSegment", "check"]

GONE = (-errno.EINVAL, -errno.EIDRM, -errno.ENOENT)


class SysvSegment:
    """A System V segment that this process uses: a Segment of segment.py.

    `fd` is a descriptor of its companion, which is made at the first use of `fd`.
    """

    __slots__ = (
        "_closed",
        "_cookie",
        "_descriptor",
        "_gid",
        "_mode",
        "_owner",
        "_readonly",
        "_uid",
        "id",
        "key",
        "name",
        "size",
    )

    # Invariant: _descriptor is None until this process has opened the companion.

    def __init__(
        self,
        key: int,
        number: int,
        facts: _native.SysvFacts,
        fd: int,
        *,
        readonly: bool,
        owner: str | int,
    ) -> None:
        self.key = key
        self.id = number  # its shmid
        self.name = name_of(key)
        self.size = facts.size
        self._cookie = 0
        self._mode = facts.mode
        self._uid = facts.uid
        self._gid = facts.gid
        self._readonly = readonly
        self._owner = owner
        self._closed = False
        self._descriptor: Descriptor | None = None
        if fd >= 0:
            self._have(fd)

    def _have(self, fd: int) -> Descriptor:
        self._learn_cookie(fd)
        self._descriptor = Descriptor(fd, path_of(companion_of(self.key)), self.name)
        return self._descriptor

    def _learn_cookie(self, fd: int) -> None:
        self._cookie = companion.cookie_of(fd)

    # ---- the companion, which carries its lock

    def _known(self) -> Descriptor:
        """Return the companion's descriptor. Makes the companion if there is none."""
        if self._descriptor is None:
            with undivided:
                if self._closed:
                    raise OSError(errno.EBADF, "it is closed", self.name)
                if self._descriptor is None:
                    return self._have(self._make_companion())
        return self._descriptor

    def _make_companion(self) -> int:
        fd = companion.open_or_make(
            self.key,
            SHARED,
            self._mode,
            companion.whose(self._uid, self._gid),
            uid=self._uid,
            owner=self._owner,
            readonly=self._readonly,
        )
        companion.disclaim(fd, self.key)
        return fd

    @property
    def fd(self) -> int:
        return self._known().number(self._learn_cookie)

    def has_descriptor(self) -> bool:
        return self._descriptor is not None and self._descriptor.is_there()

    @property
    def mark(self) -> _native.Identity:
        return self._known().mark

    @property
    def identity(self) -> tuple[int, int]:
        return (0, 0) if self._descriptor is None else self._descriptor.identity

    def lock_identity(self) -> tuple[int, int] | None:
        """Return that of the companion; None: there is none. Does not make the companion."""
        if self._descriptor is not None and self._descriptor.is_open():
            return self._descriptor.identity
        return identity_at(companion_of(self.key))

    def cookie(self) -> int:
        return self._cookie

    def path(self) -> str:
        return path_of(companion_of(self.key))

    def lock_size(self, mapped: int) -> int:
        return 0  # of the companion; a segment cannot shrink

    # ---- its memory

    def whole(self, mapped: int) -> bool:
        return True

    def read(self, offset: int, size: int) -> bytes:
        code, data = _native.sysv_read(self.id, offset, size)
        check(code, self.key, "read the segment")
        return data

    def map(self, size: int, *, readonly: bool) -> Mapping:
        """Attach the whole segment."""

        def place(address: _native.Address) -> None:
            code = _native.sysv_place(self.id, address, writable=not readonly)
            check(code, self.key, "attach the segment", readonly=readonly)

        return Mapping(self.size, place, readonly=readonly, name=self.name)

    def reserve(self, size: int) -> None:
        """Do nothing: the kernel has accounted for its pages, which cannot fill /dev/shm."""

    # ---- its key, and its end

    def name_leads(self) -> Whither:
        found = _native.sysv_find(self.key)
        return "nowhere" if found < 0 else "here" if found == self.id else "elsewhere"

    def linked(self) -> bool:
        return _native.sysv_find(self.key) == self.id

    def unlink(self) -> None:
        """Remove the segment; its memory is freed with the last attachment."""
        if not self.linked():
            raise not_found(self.name, "it was removed, or its key leads to another one")
        fd = companion.open_known(self.key, ALONE, uid=self._uid, owner=self._owner)
        try:
            check(_native.sysv_remove(self.id), self.key, "remove the segment")
            if fd is not None:
                companion.bury(self.key, fd)
        finally:
            if fd is not None:
                os.close(fd)

    def attachments(self) -> int:
        """Return shm_nattch, the number of attachments in all processes.

        Raises:
            RegionNotFoundError: it was removed, and no process is attached any more.
        """
        code, facts = _native.sysv_stat(self.id)
        check(code, self.key, "look at the segment")
        return int(facts.attached)

    def is_last(self) -> bool:
        """Tell whether no process, this one included, has it attached any more.

        For a caller that is about to close it, and has dropped its mapping.
        """
        code, facts = _native.sysv_stat(self.id)
        return code == 0 and facts.attached == 0

    def renew(self, mapping: Mapping) -> None:
        """Do nothing: the kernel counts a forked child's attachment."""

    def close(self) -> None:
        """Close `fd`, and remove the companion of a segment that is gone."""
        with undivided:
            self._closed = True
            known = self._descriptor
        fd = None if known is None else known.give_up()
        if fd is None:
            return
        if _native.sysv_find(self.key) == -errno.ENOENT:
            with suppress(OSError):
                companion.claim(fd, self.key, ALONE)
                if leads_to(companion_of(self.key), self.identity):
                    companion.bury(self.key, fd)
        os.close(fd)


def check(code: int, key: int, doing: str, *, readonly: bool = False) -> None:
    """Raise the error for the code of a call on the segment with that key, if it failed.

    Raises:
        RegionNotFoundError, PermissionError, RegionSizeError, OSError.
    """
    if code >= 0:
        return
    name = name_of(key)
    if code in GONE:
        raise not_found(name, "there is no such segment: create it, or use Region.open")
    if code in (-errno.EACCES, -errno.EPERM):
        hint = "" if readonly else "; try readonly=True to read it"
        raise PermissionError(-code, f"no permission to {doing}{hint}", name)
    if code == -errno.ERANGE:
        raise RegionSizeError(f"region {name!r} is smaller than before: its key was used again")
    _native.check(code, doing, name)
