"""Refuse a wheel that is too big, or has files where they do not belong."""

import sys
from zipfile import ZipFile

#: Bytes of all files that the wheel installs; what an interpreter then compiles from them, its
#: own __pycache__, is as big again and not counted.
MAX_SIZE = 1_000_000


def problems(path: str) -> list[str]:
    """What is wrong with that wheel; its size is printed."""
    with ZipFile(path) as wheel:
        files = wheel.infolist()
    allowed = ("shm_async/", "shm_async-")  # the package; .dist-info, and .data for share/
    found = [f"{file.filename} is outside the package" for file in files
             if not file.filename.startswith(allowed)]  # fmt: skip
    size = sum(file.file_size for file in files)
    print(f"{path}: {size:,} bytes installed")
    if size >= MAX_SIZE:
        found.append(f"it has {size:,} bytes installed, which is not less than {MAX_SIZE:,}")
    return found


def main() -> None:
    for path in sys.argv[1:]:
        found = problems(path)
        if found:
            sys.exit("\n".join(f"{path}: {each}" for each in found))


if __name__ == "__main__":
    main()
