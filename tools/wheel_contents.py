"""Refuse a wheel that is too big, or has files where they do not belong."""

import sys
from zipfile import ZipFile

MAX_SIZE = 1_100_000  # bytes, installed


def problems(path: str) -> list[str]:
    """What is wrong with that wheel."""
    with ZipFile(path) as wheel:
        files = wheel.infolist()
    allowed = ("shm_async/", "shm_async-")  # the package; .dist-info, and .data for share/
    found = [f"{file.filename} is outside the package" for file in files
             if not file.filename.startswith(allowed)]  # fmt: skip
    size = sum(file.file_size for file in files)
    if size > MAX_SIZE:
        found.append(f"it has {size:,} bytes installed, and {MAX_SIZE:,} are the limit")
    return found


def main() -> None:
    for path in sys.argv[1:]:
        found = problems(path)
        if found:
            sys.exit("\n".join(f"{path}: {each}" for each in found))


if __name__ == "__main__":
    main()
