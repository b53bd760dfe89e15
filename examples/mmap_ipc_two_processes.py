"""The two processes of mmap-ipc's README, with the port of its API.

    python examples/mmap_ipc_two_processes.py

The first process writes a message and starts itself a second time; the second one reads
it under the read lock, turns that into the write lock and answers. A process that runs
mmap-ipc itself could stand in for either.
"""

import os
import subprocess
import sys

from shm_async.mmap_ipc import MmapIPC

SIZE = 4096


def write(shared: MmapIPC, text: str) -> None:
    message = text.encode("ascii")
    shared.buffer()[: len(message) + 1] = message + b"\0"
    print(len(message))
    print("Finished writing!")


def read(shared: MmapIPC) -> None:
    print(bytes(shared.buffer()).split(b"\0")[0].decode("ascii"))
    print("Finished reading!")


def first(shared: MmapIPC) -> None:
    print("Acquire write lock:")
    print(shared.acquire_write_lock())
    write(shared, "Message from process #1")
    print("Removing lock...")
    print(shared.remove_lock(), flush=True)

    subprocess.run([sys.executable, __file__, shared.region.name], check=True)

    print("Acquire read lock:")
    print(shared.acquire_read_lock())
    read(shared)
    print("Removing lock...")
    print(shared.remove_lock())


def second(shared: MmapIPC) -> None:
    print("Acquire read lock:")
    print(shared.acquire_read_lock())
    read(shared)
    print("Acquire write lock:")
    print(shared.acquire_write_lock())
    write(shared, "This is process #2, I got your message!")
    print("Removing lock...")
    print(shared.remove_lock())


def main() -> None:
    if len(sys.argv) > 1:
        with MmapIPC(sys.argv[1], SIZE, lock_memory=True) as shared:
            second(shared)
    else:
        with MmapIPC(f"mmap-ipc-{os.getpid()}", SIZE, lock_memory=True) as shared:
            try:
                first(shared)
            finally:
                shared.region.unlink()  # nothing else does


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
