"""The pytest plugin, in pytest runs of their own."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from shm_async import Region
from shm_async.pytest_plugin import PREFIX

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.once, pytest.mark.long]

PAGE = Path(__file__).parents[2] / "docs/testing.md"
Run = Callable[..., pytest.RunResult]

HEAD = """
import asyncio, os, subprocess, sys, threading
import pytest
from shm_async import Region
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a file of tests, with no other plugin than ours."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(tests: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + textwrap.dedent(tests))
        plugins = ["-p", "shm_async.pytest_plugin", "-p", "no:cacheprovider"]
        return pytester.runpytest_subprocess(*plugins, "-v", *arguments)

    return run


def ours() -> list[str]:
    return [entry for entry in os.listdir("/dev/shm") if entry.startswith(PREFIX)]


# ---- being loaded ------------------------------------------------------------------------


def test_it_is_loaded_by_itself_and_changes_nothing(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.getoption("shm_leaks") == "off"
            assert "shm_async.pytest_plugin" in sys.modules
            assert {"shm_async._region", "shm_async._native"}.isdisjoint(sys.modules)
            assert not [name for name in request.fixturenames if "shm" in name]
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_package_does_not_import_pytest():
    program = "import sys, shm_async; shm_async.Region; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"


# ---- fixtures ------------------------------------------------------------------------------


FIXTURES = """
names = []

@pytest.mark.parametrize("number", [1, 2])
def test_region(shm_region, number):
    assert (shm_region.dtype, shm_region.shape) == ("uint64", (8,))
    assert shm_region.buffer.tolist() == [0] * 8
    assert shm_region.name not in names
    names.append(shm_region.name)

def test_it_went():
    assert len(names) == 2
    assert not set(names) & set(os.listdir("/dev/shm"))

def test_factory(shm_region_factory):
    one = shm_region_factory(4, dtype="float64")
    two = shm_region_factory(shape=(2, 3), dtype="int8")
    assert one.name != two.name
    assert "test_factory" in one.name
    assert (one.dtype, two.shape) == ("float64", (2, 3))
    one.resize(16)
    two.close()
    names.extend([one.name, two.name])

def test_name(shm_region_factory):
    names.append(shm_region_factory.name())
    program = "import sys, shm_async; shm_async.Region.create(sys.argv[1], 1)"
    subprocess.run([sys.executable, "-c", program, names[-1]], check=True)
    assert names[-1] in os.listdir("/dev/shm")

def test_a_forked_child_removes_nothing(shm_region_factory):
    region = shm_region_factory(1)
    pid = os.fork()
    if pid == 0:
        shm_region_factory.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert region.linked and not region.closed

def test_failing(shm_region):
    with shm_region.write_lock():
        names.append(shm_region.name)
        assert False

def test_all_went():
    assert len(names) == 6
    assert not set(names) & set(os.listdir("/dev/shm"))
"""


def test_fixtures_give_fresh_regions_and_remove_them(run: Run):
    run(FIXTURES).assert_outcomes(passed=7, failed=1)
    assert ours() == []


def test_workers_of_xdist_get_names_of_their_own_and_blame_nobody_else(
    run: Run, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NAMES", str(tmp_path))
    tests = """
    from pathlib import Path

    @pytest.mark.parametrize("number", range(2))
    def test_it(shm_region_factory, number):
        region = shm_region_factory(1)
        Path(os.environ["NAMES"], str(number)).write_text(f"{os.getpid()} {region.name}")
        # both are in the middle of it, and each has made a region after the other began
        while len(os.listdir(os.environ["NAMES"])) < 2:
            pass
        other = shm_region_factory(1)
    """
    arguments = ["-p", "xdist", "-n", "2", "--shm-leaks=error"]
    run(tests, *arguments).assert_outcomes(passed=2)
    written = [path.read_text().split() for path in tmp_path.glob("[01]")]
    assert len({pid for pid, _ in written}) == len({name for _, name in written}) == 2
    assert ours() == []


# ---- the check -----------------------------------------------------------------------------

CLEAN = """
@pytest.fixture(scope="module")
def shared():
    with Region.temporary(8) as region:
        yield region

@pytest.fixture
def local():
    with Region.temporary(8) as region:
        yield region

def test_a_region_of_a_wider_scope(shared):
    with shared.write_lock():
        pass

def test_more_descriptors_of_such_a_region(shared):
    threads = [threading.Thread(target=lock, args=[shared]) for _ in range(3)]
    with shared.write_lock():
        [thread.start() for thread in threads]
    [thread.join() for thread in threads]

def lock(region):
    with region.read_lock():
        pass

def test_fixtures(local, shm_region, shm_region_factory):
    shm_region_factory(8)
    hold = local.read_lock()
    hold.acquire_blocking()
    hold.release()

def test_garbage():
    circle = [Region.create(os.environ["NAME"] + "circle", 8)]
    circle[0].unlink()
    circle.append(circle)  # and it is not closed

def test_waits_in_a_loop(local):
    async def main():
        async def wait():
            async with local.write_lock():
                await asyncio.sleep(0)
        held = local.write_lock()
        await asyncio.to_thread(held.acquire_blocking)
        waiting = asyncio.create_task(wait())
        while not local.holders()[1:]:
            await asyncio.sleep(0.001)
        held.release()
        await waiting
    asyncio.run(main())

CREATE = "import sys, shm_async; shm = shm_async.Region.create(sys.argv[1], 1); print(flush=True)"

def test_another_process_creates_a_region_and_ends():
    subprocess.run([sys.executable, "-c", CREATE, os.environ["NAME"] + "dead"], check=True)

def test_a_process_that_is_no_child_creates_a_region():
    program = CREATE + "; sys.stdin.read()"  # until the pipe is closed
    orphan = subprocess.Popen(
        ["sh", "-c", 'exec 3<&0; "$@" <&3 &', "sh", sys.executable, "-c", program,
         os.environ["NAME"] + "alive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    orphan.stdout.readline()
    assert orphan.wait() == 0
    kept.append(orphan)

kept = []
"""

LEAKY = r"""
kept = []

def test_name():
    Region.create(os.environ["NAME"] + "name", 1).close()

def test_open():
    region = Region.temporary(1)
    kept.append(region)
    region.unlink()

def test_after_the_leaks_nothing_is_left():
    pass

@pytest.fixture(scope="module")
def shared():
    with Region.temporary(8) as region:
        yield region

def test_lock(shared):
    kept.append(shared.write_lock())
    kept[-1].acquire_blocking()

def test_thread(shared):
    kept.append(threading.Thread(target=asyncio.run, args=[wait(shared)], daemon=True))
    kept[-1].start()
    while len(shared.holders()) < 2:
        pass

async def wait(region):
    async with region.read_lock():
        pass

def test_segment():
    kept.append(Region.create(None, 1))
    kept[-1].close()

@pytest.mark.shm_leaks("off")
def test_excused():
    kept.append(Region.temporary(1))

@pytest.mark.shm_leaks("warn")
def test_warned():
    kept.append(Region.temporary(1))

@pytest.mark.shm_leaks("loudly")
def test_wrong():
    pass

def test_child():
    program = "import sys, shm_async; region = shm_async.Region.create(sys.argv[1], 1);" \
        "print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program, os.environ["NAME"] + "child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    kept.append(child)

def test_clean_up():
    assert isinstance(kept[-1], subprocess.Popen)
    kept[-1].communicate()
    kept[1].release()
    kept[2].join()
    kept[3].unlink()
    [each.close() for each in kept if isinstance(each, Region)]
"""


@pytest.fixture
def names(name: str, monkeypatch: pytest.MonkeyPatch):
    """NAME in the environment begins the names of regions; what has them in the end goes."""
    monkeypatch.setenv("NAME", name)
    yield name
    for entry in os.listdir("/dev/shm"):
        if entry.startswith(name):
            os.unlink(f"/dev/shm/{entry}")


@pytest.mark.usefixtures("names")
def test_the_check_finds_nothing_where_nothing_is_left(run: Run):
    run(CLEAN, "--shm-leaks=error").assert_outcomes(passed=7)


def reports_of(result: pytest.RunResult) -> dict[str, list[str]]:
    """What the errors say, by test."""
    told: dict[str, list[str]] = {}
    title = ""
    for line in result.outlines:
        if line.startswith(("__", "==")):
            title = line.partition(" of ")[2].split(" ")[0]
        elif line.startswith("  "):
            told.setdefault(title, []).append(line.strip())
    return told


def test_the_check_names_what_a_test_leaves(run: Run, names: str):
    result = run(LEAKY, "--shm-leaks=error")
    result.assert_outcomes(passed=10, errors=7, warnings=1)
    told = reports_of(result)
    assert told["test_name"] == [
        f"region '{names}name', which still exists: unlink() it, or let the fixture "
        "shm_region_factory make it"
    ]
    (line,) = told["test_open"]
    assert line.startswith("an open descriptor of a region that was unlinked: close() ")
    (line,) = told["test_lock"]
    assert line.startswith("a write lock of region 'shm_async.temporary.")
    assert told["test_thread"] == ["1 waiting thread(s): a task or thread still waits for a lock"]
    assert any(line.startswith("the System V segment of key 0x") for line in told["test_segment"])
    assert [line.split(",")[0] for line in told["test_child"]] == [f"region '{names}child'"]
    assert "@pytest.mark.shm_leaks takes one of 'error', 'warn', 'off'" in result.stdout.str()
    assert "ShmLeakWarning: the test left behind:" in result.stdout.str()


@pytest.mark.usefixtures("names")
def test_without_the_option_nothing_is_checked(run: Run):
    tests = """
    def test_it():
        Region.create(os.environ["NAME"], 1).close()
    """
    run(tests, "-W", "error").assert_outcomes(passed=1)


@pytest.mark.skipif(not PAGE.exists(), reason="no docs in this tree")
def test_the_programs_of_the_page_do_what_it_says(run: Run):
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(programs) == 3
    run("\n".join(programs), "--shm-leaks=error").assert_outcomes(passed=4)


def test_this_very_run_has_the_plugin(shm_region: Region):
    with shm_region.write_lock() as view:
        view[0] = 1
    assert shm_region.snapshot()[0] == 1
