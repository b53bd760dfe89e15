"""`open_region`: which home an address leads to, and what is wrong with an address."""

import subprocess
import sys

import pytest

import shm_async
from shm_async import Region, SharedRegion, open_region

pytestmark = pytest.mark.once


def test_a_name_leads_to_this_hosts_memory(name: str):
    region = open_region(name, 4, dtype="uint64", unlink="creator")
    with region:
        assert isinstance(region, Region)
        assert region.created


def test_both_homes_accept_the_same_call():
    def total(region: SharedRegion) -> int:
        with region.read_lock() as view:
            return sum(view)

    assert total.__annotations__["region"] is SharedRegion


def test_opening_an_address_does_no_io():
    region = open_region("postgresql://nobody@nowhere.invalid/none#counters", 4, dtype="uint64")
    assert (region.name, region.nbytes, region.closed) == ("counters", 32, False)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("etcd://host/counters", "etcd://.*postgresql://"),
        ("postgresql://host/database", "'#'"),
        ("postgresql://host/database#", "'#'"),
        ("postgresql://host/database#a/b", "must not contain '/'"),
        ("postgresql://host/database#..", "name '..'"),
        ("postgresql://host/database#" + "x" * 300, "255 bytes"),
        ("postgresql://user:se#cret@host/db", "must not contain"),
        ("postgresql://host/db?nonsense=1#a", "cannot be read"),
    ],
)
def test_a_bad_address_is_an_error_that_says_why(address: str, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        open_region(address, 4)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("option", ["layout", "lock_memory", "mode", "on_owner_death", "follow"])
def test_an_option_that_a_home_lacks_says_what_to_do(option: str):
    with pytest.raises(TypeError, match=f"no option {option}=: .*"):
        open_region("postgresql://host/db#a", 4, **{option: None})


def test_an_option_of_the_other_home_is_named(name: str):
    with pytest.raises(TypeError, match=r"this host's memory has no option check_interval="):
        open_region(name, 4, check_interval=1.0)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"check_interval": 0}, ValueError),
        ({"check_interval": float("nan")}, ValueError),
        ({"connect_timeout": "3"}, TypeError),
        ({"on_lost": "ignore"}, ValueError),
        ({"pooler": "transaction"}, ValueError),
        ({"schema": "Bad Name"}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
    ],
)
def test_a_bad_value_of_an_option_is_refused(options: dict[str, object], kind: type[Exception]):
    with pytest.raises(kind):
        open_region("postgresql://host/db#a", 4, **options)


def test_a_region_that_is_too_large_is_refused():
    with pytest.raises(shm_async.RegionSizeError, match="max_bytes"):
        open_region("postgresql://host/db#a", 65 * 2**20)
    open_region("postgresql://host/db#a", 65 * 2**20, max_bytes=2**30)


def test_how_many_elements_must_be_told():
    with pytest.raises(TypeError, match="length or shape"):
        open_region("postgresql://host/db#a")


def test_no_password_is_shown():
    region = open_region("postgresql://user:s3cr3t@host/db#a", 4)
    assert "s3cr3t" not in repr(region) + repr(vars(region))


def test_a_name_in_the_address_may_be_quoted():
    assert open_region("postgresql://host/db#a%20b", 4).name == "a b"


def test_importing_the_package_does_not_import_psycopg():
    program = (
        "import sys, shm_async\n"
        "shm_async.Region; shm_async.open_region\n"
        "assert not any(each.startswith('psycopg') for each in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_without_the_extra_the_error_names_it():
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import shm_async\n"
        "try: shm_async.open_region('postgresql://host/db#a', 4)\n"
        "except ImportError as error: assert 'shm_async[postgresql]' in str(error)\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
