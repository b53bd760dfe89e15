"""A token goes to one caller, with the GIL and without it."""

import sys
import threading

import pytest

from shm_async._lock.token import token_slots

ROUNDS, THREADS = 300, 4


class Slot:
    """The token of a Python with the GIL."""

    __slots__ = ("token",)


class Kept:
    """The token of a Python without the GIL, which works with it, too."""

    __slots__ = ("__dict__",)


KINDS = [Kept]
if getattr(sys, "_is_gil_enabled", lambda: True)():
    KINDS.append(Slot)  # type: ignore[arg-type]


@pytest.fixture(params=KINDS)
def owner(request: pytest.FixtureRequest) -> object:
    return request.param()


def test_it_is_taken_once(owner):
    assert not hasattr(owner, "token")
    with pytest.raises(AttributeError, match="token"):
        del owner.token
    owner.token = None
    assert hasattr(owner, "token")
    del owner.token
    assert not hasattr(owner, "token")
    with pytest.raises(AttributeError, match="token"):
        del owner.token


def test_to_store_twice_makes_one_of_it(owner):
    owner.token = None
    owner.token = None
    del owner.token
    with pytest.raises(AttributeError):
        del owner.token


@pytest.mark.usefixtures("threads_switch_all_the_time")
def test_one_of_several_threads_gets_it(owner):
    winners: list[int] = []
    begin = threading.Barrier(THREADS, action=lambda: setattr(owner, "token", None))

    def run() -> None:
        for number in range(ROUNDS):
            begin.wait()
            try:
                del owner.token
            except AttributeError:
                continue
            winners.append(number)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(winners) == list(range(ROUNDS))


@pytest.mark.parametrize(
    ("without_the_gil", "slots"), [(1, ("__dict__",)), (0, ("a", "b")), (None, ("a", "b"))]
)
def test_where_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, without_the_gil: int | None, slots: tuple[str, ...]
):
    monkeypatch.setattr("shm_async._lock.token.get_config_var", lambda _: without_the_gil)
    assert token_slots("a", "b") == slots
