"""A WSGI app, attached at import: in each worker, or before the fork with gunicorn's --preload."""

import os
import time
from collections.abc import Callable, Iterable

from counting import BOOKED, COUNT, MEANWHILE, attach, perhaps_die

region = attach()


def app(environment: dict[str, object], start: Callable[..., object]) -> Iterable[bytes]:
    with region.write_lock() as view:
        seen = view[COUNT]
        time.sleep(MEANWHILE)
        view[COUNT] = seen + 1
        perhaps_die(environment["PATH_INFO"])
        view[BOOKED] = seen + 1
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
