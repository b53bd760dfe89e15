"""Who is attached, who removes the name, and what is left when everybody has died."""

import os
import signal
import time

import pytest
from lives import Child, exists
from looking import look
from privileges import needs
from waits import wait_until

from shm_async import Region
from shm_async._memory import names, presence


def until_attached(address: str | int, number: int) -> None:
    """Wait until that many are attached.

    A process that is dead and waited for still counts while another one, such as a test beside
    this one, reads which mappings it has.
    """
    name = names.name_of(address) if isinstance(address, int) else address
    wait_until(lambda: look(name).attachments == number)


def test_by_default_nobody_removes_it(address):
    with Region.create(address, 4):
        pass
    assert exists(address)


def test_the_creator_removes_it_if_that_is_the_policy(address):
    with (
        Region.create(address, 4, unlink="creator"),
        Region.attach(address, unlink="creator") as other,
    ):
        other.close()  # has not created it
        assert exists(address)
    assert not exists(address)


def test_a_forked_child_is_not_the_creator(address):
    with Region.create(address, 4, unlink="creator") as region:
        Child(region.close).end()
        assert exists(address)
    assert not exists(address)


def test_the_last_one_removes_it_if_that_is_its_policy(address):
    one = Region.open(address, 4, unlink="last")
    two = Region.open(address, 4, unlink="last")
    one.close()
    assert exists(address)
    two.close()
    assert not exists(address)


def test_who_has_another_policy_counts_and_does_not_remove(address):
    one = Region.open(address, 4, unlink="last")
    two = Region.open(address, 4)
    one.close()
    two.close()
    assert exists(address)


@pytest.mark.parametrize("number", [0, signal.SIGKILL])
def test_other_processes_count_until_they_end_however_they_end(address, number: int):
    region = Region.create(address, 4, unlink="last")
    with Child(lambda: Region.attach(address)) as child:
        other = Region.attach(address, unlink="last")
        other.close()
        assert exists(address)
        child.end(number)
    until_attached(address, 1)
    region.close()
    assert not exists(address)


def test_a_forked_child_counts_on_its_own_account(address):
    """The child inherits the parent's attachment and makes it its own."""
    region = Region.create(address, 4, unlink="last")
    with Child(lambda: None) as child:
        region.close()
        assert exists(address), "the child was not counted"
        child.end()
    with Region.attach(address, unlink="last"):
        until_attached(address, 1)
    assert not exists(address)


def test_a_child_that_closes_is_not_the_last_while_its_parent_is_there(address):
    with Region.create(address, 4, unlink="last") as region:
        Child(region.close).end()
        assert exists(address)
        until_attached(address, 1)
    assert not exists(address)


def test_a_child_whose_parent_was_killed_can_be_the_last(address):
    hear, say = os.pipe()
    told, tell = os.pipe()

    def parent() -> None:
        region = Region.create(address, 4, unlink="last")
        if os.fork() == 0:
            os.read(told, 1)
            region.close()
            os.write(say, b"x" if exists(address) else b"-")
            os._exit(0)

    Child(parent).end(signal.SIGKILL)
    assert exists(address)
    until_attached(address, 1)
    os.write(tell, b".")
    assert os.read(hear, 1) == b"-"
    for fd in (hear, say, told, tell):
        os.close(fd)


def test_a_child_that_cannot_have_a_presence_of_its_own_is_never_the_last(name: str):
    with Region.create(name, 4, unlink="last") as region:

        def close_without_a_descriptor_to_spare() -> None:
            import resource

            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit))
            region._attachment.segment.renew(region._table.usable().mapping)
            assert region._attachment.segment.borrowed
            region.close()

        Child(close_without_a_descriptor_to_spare).end()
        assert exists(name)


def test_two_who_close_at_once_leave_nothing(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(presence, "PATIENCE", 60)
    for _ in range(100):
        hear, say = os.pipe()
        children = []
        for _ in range(2):
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    region = Region.open(name, 1, unlink="last")
                    os.close(say)
                    os.read(hear, 1)  # ends for both at once
                    region.close()
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        os.close(hear)
        os.close(say)
        for pid in children:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not exists(name)


def test_whoever_comes_while_the_last_one_leaves_gets_a_region_that_has_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """`open` meets one who is about to unlink: it must not end up with the orphan."""
    region = Region.create(name, 4, unlink="last")
    assert presence.take_alone(region._attachment.segment.fd, name)
    hear, say = os.pipe()
    monkeypatch.setattr(presence, "PATIENCE", 0)  # the child's own presence at that object: in vain
    if (pid := os.fork()) == 0:
        code = 1
        try:
            presence.PATIENCE = 60  # its parent may be stopped for a while
            os.write(say, b".")
            with Region.open(name, 4) as other:
                code = 0 if other.created and other.linked else 1
        finally:
            os._exit(code)
    assert os.read(hear, 1) == b"."
    time.sleep(0.02)  # for it to stand before the door; if it does not, nothing is tested
    region.unlink()
    region.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(hear)
    os.close(say)


def test_a_name_that_is_gone_already_is_no_error(address):
    for policy in ("creator", "last"):
        region = Region.create(address, 4, unlink=policy)
        region.unlink()
        region.close()


def test_a_namesake_is_never_removed(name: str):
    region = Region.create(name, 4, unlink="creator")
    os.unlink(f"/dev/shm/{name}")
    with Region.create(name, 4):
        region.close()
        assert exists(name)


def test_a_garbage_collector_never_removes_a_name(name: str):
    region = Region.create(name, 4, unlink="last")
    with pytest.warns(ResourceWarning, match="never closed"):
        del region
    assert exists(name)


def test_a_failed_attach_never_removes_a_name(name: str):
    with Region.create(name, 4):
        with pytest.raises(ValueError, match=r"attach\(\) without a length"):
            Region.attach(name, 8, unlink="last")
        assert exists(name)


@needs("another user", "giving files away")
def test_an_unlink_that_is_not_allowed_is_an_error_after_everything_else_is_done(name: str):
    def stranger() -> None:
        os.setgid(65534)
        os.setuid(65534)
        region = Region.open(name, 4, owner="any", unlink="last")
        with pytest.raises(PermissionError):
            region.close()
        assert region.closed
        with pytest.raises(OSError, match="it is closed"):
            os.fstat(region._attachment.segment.fd)

    region = Region.create(name, 4, mode=0o666)
    os.chown(f"/dev/shm/{name}", 65533, 65533)
    region.close()
    Child(stranger).end()
    assert exists(name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unlink": "always"}, "'never' or 'creator' or 'last', not 'always'"),
        ({"unlink": None}, "unlink must be"),
        ({"if_unlinked": "close"}, "'ignore' or 'raise', not 'close'"),
    ],
)
def test_an_unknown_policy_is_refused_and_the_known_ones_are_named(name: str, options, says: str):
    for make in (Region.create, Region.open):
        with pytest.raises(ValueError, match=says):
            make(name, 4, **options)
    assert not exists(name)
    with Region.create(name, 4), pytest.raises(ValueError, match=says):
        Region.attach(name, **options)


def test_a_reader_cannot_be_asked_to_be_the_last(name: str):
    with Region.create(name, 4), pytest.raises(ValueError, match="without readonly=True"):
        Region.attach(name, readonly=True, unlink="last")
