"""Mistakes that mypy and pyright report: `make lint` fails if one of these needs no ignore."""

from shm_async import Region


def mistakes_with_a_region(region: Region) -> None:
    region[0]  # type: ignore[index]
    region.lock()  # type: ignore[attr-defined]
    Region("x", 8)  # type: ignore[call-arg]
    for _ in region:  # type: ignore[attr-defined]
        pass


async def a_forgotten_await(region: Region) -> None:
    hold = region.read_lock()
    hold.acquire()  # type: ignore[unused-coroutine]
    hold.upgrade()  # type: ignore[unused-coroutine]
    if not hold.upgrade():  # type: ignore[truthy-bool]
        pass
    kept: bool = hold.upgrade()  # type: ignore[assignment]
    print(kept)


async def an_await_too_many(region: Region) -> None:
    await region.write_lock()  # type: ignore[misc]
