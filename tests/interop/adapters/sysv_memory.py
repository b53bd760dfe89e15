"""A Region with the face of sysv_ipc's SharedMemory, as far as regions have what it shows.

Left out on purpose: a segment filled with blanks (regions start as zeros), `address`, owners
and times (the kernel's business: ipcs(1) shows them), and attaching again at will: a region is
attached from birth to `close`, so `detach` and `attach` make a new one of the same key.
"""

from shm_async import Region, RegionExistsError, RegionNotFoundError

IPC_CREAT = 1
IPC_EXCL = 2
IPC_CREX = IPC_CREAT | IPC_EXCL
SHM_RDONLY = 1
PAGE_SIZE = 4096


class ExistentialError(Exception):
    """It is there and should not be, or the other way round."""


class NotAttachedError(Exception):
    """Used while detached."""


class SharedMemory:
    def __init__(self, key: int | None, flags: int = 0, mode: int = 0o600, size: int = 0) -> None:
        size = size or (PAGE_SIZE if flags & IPC_EXCL else 0)
        self.region = translate(open_region, key, flags, mode, size)

    @property
    def key(self) -> int:
        assert self.region.key is not None
        return self.region.key

    @property
    def id(self) -> int:
        assert self.region.id is not None
        return self.region.id

    @property
    def size(self) -> int:
        return self.region.nbytes

    @property
    def attached(self) -> bool:
        return not self.region.closed

    @property
    def number_attached(self) -> int:
        assert self.region.attachments is not None
        return self.region.attachments

    def attach(self, address: None = None, flags: int = 0) -> None:
        assert address is None
        self.region = translate(open_region, self.key, 0, 0o600, 0, bool(flags & SHM_RDONLY))

    def detach(self) -> None:
        self.region.close()

    def remove(self) -> None:
        translate(self.region.unlink)

    def read(self, byte_count: int = 0, offset: int = 0) -> bytes:
        view = self._view()
        if not 0 <= offset < len(view):
            raise ValueError("the offset is not inside the segment")
        return bytes(view[offset : offset + byte_count if byte_count else None])

    def write(self, some_bytes: bytes, offset: int = 0) -> None:
        view = self._view()
        if offset < 0 or offset + len(some_bytes) > len(view):
            raise ValueError("these bytes do not fit into the segment")
        view[offset : offset + len(some_bytes)] = some_bytes

    def memory(self) -> memoryview:
        return self._view()

    def _view(self) -> memoryview:
        if not self.attached:
            raise NotAttachedError
        return self.region.buffer


def open_region(
    key: int | None, flags: int, mode: int, size: int, readonly: bool = False
) -> Region:
    if not flags & IPC_CREAT:
        assert key is not None
        return Region.attach(key, size or None, layout="raw", readonly=readonly)
    if flags & IPC_EXCL:
        return Region.create(key, size, mode=mode, layout="raw")
    assert key is not None
    if size:
        return Region.open(key, size, mode=mode, layout="raw")
    return Region.attach(key, layout="raw")


def remove_shared_memory(key: int) -> None:
    memory = SharedMemory(key)
    memory.detach()
    memory.remove()


def translate(function, *arguments):
    """Call it, with our errors in sysv_ipc's words."""
    try:
        return function(*arguments)
    except (RegionExistsError, RegionNotFoundError) as error:
        raise ExistentialError(str(error)) from error
