"""``python -m shm_async`` is the command `shm-async`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
