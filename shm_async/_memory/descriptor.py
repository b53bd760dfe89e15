"""A descriptor that notices when the program has closed it, and opens its object again."""

import errno
import fcntl
import os
from collections.abc import Callable

from .. import _native
from .._failures import lost
from .._forks import undivided
from . import leases

__all__ = ["Descriptor"]

NO_NUMBER = -1
NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Descriptor:
    """A descriptor of an object in /dev/shm, opened again if the program has closed it."""

    __slots__ = ("_fd", "identity", "mark", "name", "path", "writable")

    # Invariant: _fd is NO_NUMBER once it is closed; before, it is the number under which the
    # description that `mark` identifies was opened.

    def __init__(self, fd: int, path: str, name: str) -> None:
        self.path = path
        self.name = name  # for messages
        self._use(fd, None)

    def _use(self, fd: int, mark: _native.Identity | None) -> None:
        self.mark = _native.identity_take(fd, mark, self.name)
        self.identity = (self.mark.device, self.mark.inode)  # st_dev and st_ino
        self.writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        self._fd = fd

    def is_there(self) -> bool:
        """Tell whether it is open, and still refers to our description."""
        return self._fd >= 0 and _native.identity_is(self._fd, self.mark)

    def is_open(self) -> bool:
        """Tell whether `give_up` was not called. No system call."""
        return self._fd >= 0

    def number(self, announce: Callable[[int], None]) -> int:
        """Return its number, for a caller that uses it at once.

        If it has to be opened again, `announce` is called with the new descriptor first. It is
        not kept, as a segment and its descriptor would keep each other alive.

        Raises:
            OSError: EBADFD, the program closed it, and its path leads to the object no more.
        """
        if not self.is_there():
            with undivided:  # of threads, one opens it
                if not self.is_there():
                    self._find_again(announce)
        return self._fd

    def _find_again(self, announce: Callable[[int], None]) -> None:
        if self._fd == NO_NUMBER:
            raise OSError(errno.EBADF, "it is closed", self.name)
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            access = os.O_RDWR if self.writable else os.O_RDONLY
            fd = leases.open_patiently(self.path, flags | access, self.name)
        except OSError as error:
            raise (error if error.errno in NONE_LEFT else lost(self.name)) from None
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != self.identity:
                raise lost(self.name)
            announce(fd)
            self._use(fd, self.mark)
        except BaseException:
            os.close(fd)
            raise

    def replace_by(self, fd: int) -> None:
        """Make our number refer to the description of `fd`, another opening of the object."""
        os.dup2(fd, self._fd, inheritable=False)
        self._use(self._fd, self.mark)

    def give_up(self) -> int | None:
        """Stop using it. Return the number for the caller to close; None: it is not ours."""
        with undivided:
            ours, fd, self._fd = self.is_there(), self._fd, NO_NUMBER
        return fd if ours else None
