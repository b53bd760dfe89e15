"""A test asks for the thing that it needs, and is skipped only where the kernel refuses it."""

import os

import privileges
import pytest

pytestmark = pytest.mark.once


def refuse() -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture(autouse=True)
def _untried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_PRIVILEGES", raising=False)
    monkeypatch.setitem(privileges.TRIALS, "a wish", refuse)
    monkeypatch.setitem(privileges.TRIALS, "nothing", lambda: None)
    monkeypatch.setitem(privileges.TRIALS, "a fault", lambda: 1 / 0)
    monkeypatch.setattr(privileges, "can", privileges.can.__wrapped__)


def test_a_thing_that_the_kernel_refuses_is_named_with_its_reason():
    mark = privileges.needs("nothing", "a wish").mark
    assert mark.args == (True,)
    assert mark.kwargs["reason"] == "needs a wish (Operation not permitted)"


def test_a_thing_that_works_skips_nothing():
    assert privileges.needs("nothing").mark.args == (False,)


def test_a_fault_in_a_trial_is_no_permission():
    assert "ended with 255" in privileges.needs("a fault").mark.kwargs["reason"]


def test_where_all_must_work_a_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEST_PRIVILEGES", "all")
    with pytest.raises(RuntimeError, match="a wish"):
        privileges.needs("a wish")
    with pytest.raises(RuntimeError, match="bytes free"):
        privileges.needs_shm(2**60)


def test_a_trial_changes_nothing_here():
    before = os.getresuid(), os.getresgid(), os.readlink("/proc/self/ns/mnt")
    for thing in privileges.TRIALS:
        privileges.needs(thing)
    assert (os.getresuid(), os.getresgid(), os.readlink("/proc/self/ns/mnt")) == before


def test_a_small_shm_skips_what_needs_a_large_one():
    assert privileges.needs_shm(1).mark.args == (False,)
    assert privileges.needs_shm(2**60).mark.args == (True,)
