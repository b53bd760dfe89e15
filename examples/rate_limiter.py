"""One rate limit for all workers of a service: FastAPI under uvicorn, four processes.

    make example NAME=rate_limiter
    for i in $(seq 30); do curl -s localhost:8000/; done

A client may send 20 requests at once, and 10 a second after that. The limit is exact, whichever
worker answers, also while workers are killed and replaced.

Use it when one host serves the API and a request must not cost a round trip to Redis: a check
takes some microseconds. Do not use it when several hosts share one limit, or when the limit must
outlive a reboot of the host.

A client is a place in a table of fixed size: a keyed hash of its API key, and the time at which its
bucket will be full again (the tokens follow from that). A bucket that is full is as good as
none, so its place is free. A client that finds all its 16 places taken is refused, too: a full
table never lets more through than the limit, but then new clients have to wait.
"""

import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request

from shm_async import Region

BURST = 20  # tokens in a full bucket
PERIOD = 100_000_000  # nanoseconds until the next token: 10 a second
SLOTS = 1 << 14  # clients that are below their full bucket at the same time
PLACES = 16  # in which a client may be

KEY = slice(0, 2)  # of the hash, so that nobody can choose clients that share their places
TABLE = 2  # the first slot: each is a client's hash, and when its bucket is full
LENGTH = TABLE + 2 * SLOTS


class State(TypedDict):
    region: Region
    key: bytes


def take(view: memoryview, client: int, now: int) -> int:
    """Take a token from the client's bucket. Returns 0, or the nanoseconds until there is one."""
    first_free = soonest = None
    for probe in range(PLACES):
        slot = TABLE + 2 * ((client + probe) % SLOTS)
        full_at = view[slot + 1]
        if view[slot] == client:
            break
        if full_at <= now and first_free is None:
            first_free = slot
        soonest = full_at if soonest is None else min(soonest, full_at)
    else:
        if first_free is None:
            return (soonest or now) - now
        slot, full_at = first_free, now
    full_then = max(full_at, now) + PERIOD
    if (wait := full_then - BURST * PERIOD - now) > 0:
        return wait
    # a worker that is killed between these stores has taken a place for a client nobody knows
    view[slot + 1] = full_then
    view[slot] = client
    return 0


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    """Attach; the first worker makes up the key. The last one to stop removes the region."""
    # "ignore": a killed worker leaves no more than one bucket wrong
    async with Region.open(
        os.environ.get("RATE_LIMITER_REGION", "rate-limiter"),
        LENGTH,
        dtype="int64",
        on_owner_death="ignore",
        unlink="last",
    ) as region:
        async with region.write_lock() as view:
            if not any(view[KEY]):
                view[KEY] = memoryview(secrets.token_bytes(16)).cast("q")
            key = bytes(view[KEY])
        yield {"region": region, "key": key}


async def limited(request: Request) -> None:
    """Refuse the request if its client has no token left. A dependency for any route."""
    host = request.client.host if request.client else "?"
    name = request.headers.get("x-api-key", host).encode()
    digest = hashlib.blake2b(name, key=request.state.key, digest_size=8).digest()
    client = int.from_bytes(digest, "little", signed=True) or 1  # 0 is a place never used
    async with request.state.region.write_lock() as view:
        wait = take(view, client, time.monotonic_ns())
    if wait:
        seconds = -(-wait // 1_000_000_000)
        raise HTTPException(429, "too many requests", {"Retry-After": str(seconds)})


app = FastAPI(lifespan=lifespan)


@app.get("/", dependencies=[Depends(limited)])
async def answer() -> dict[str, int]:
    return {"worker": os.getpid()}


if __name__ == "__main__":
    uvicorn.run(
        "rate_limiter:app", workers=4, port=int(os.environ.get("PORT", "8000")), access_log=False
    )
