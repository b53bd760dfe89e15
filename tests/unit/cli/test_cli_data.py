"""`shm-async dump`, `get`, `set`, `create`, `rm`, `resize` and `prune`."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from dying import writer_dies
from rivals import Rival

import shm_async
from shm_async import Region, cli
from shm_async._cli.hexdump import hexdump

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the command here: its exit status, and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        try:
            status = cli.main(arguments)
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return status, out.decode("latin-1"), err.decode()

    return run


@pytest.fixture
def words(region: Region) -> Region:
    """The region, with 0 to 7 in it."""
    region.buffer[:] = memoryview(b"".join(i.to_bytes(8, sys.byteorder) for i in range(8))).cast(
        "Q"
    )
    return region


# ---- dump ----------------------------------------------------------------------------------


def test_dump_prints_elements_with_their_numbers(run: Run, words: Region):
    assert run("dump", words.name) == (0, "0: 0 1 2 3\n4: 4 5 6 7\n", "")


def test_dump_takes_another_type_and_a_part(run: Run, words: Region):
    out = run("dump", "--as", "uint32", "--offset", "2", "--count", "3", words.name)[1]
    assert out == "2: 1 0 2\n"


def test_dump_json_is_one_object(run: Run, words: Region):
    found = json.loads(run("dump", "--json", "--offset", "6", words.name)[1])
    assert found == {"name": words.name, "dtype": "uint64", "offset": 6, "values": [6, 7]}


def test_dump_raw_is_the_bytes(run: Run, words: Region):
    out = run("dump", "--raw", "--offset", "8", "--count", "9", words.name)[1]
    assert out.encode("latin-1") == bytes(words.buffer)[8:17]


@pytest.mark.parametrize("nbytes", [1, 16, 17, 64, 100])
@pytest.mark.parametrize("kind", ["zeros", "counting", "repeated"])
def test_dump_hex_is_what_hexdump_prints(run: Run, name: str, nbytes: int, kind: str):
    if shutil.which("hexdump") is None:
        pytest.skip("no hexdump")
    data = {
        "zeros": bytes(nbytes),
        "counting": bytes(range(100))[:nbytes],
        "repeated": (bytes(range(32, 48)) * 7)[:nbytes],
    }[kind]
    with Region.create(name, nbytes) as region:
        region.buffer[:] = data
        out = run("dump", "--hex", name)[1]
    theirs = subprocess.run(["hexdump", "-C"], input=data, stdout=subprocess.PIPE, check=True)
    assert out == theirs.stdout.decode()


def test_a_dump_from_the_middle_counts_from_the_beginning():
    assert list(hexdump(b"ab", 0x20)) == [
        "00000020  61 62                                             |ab|",
        "00000022",
    ]


def test_dump_of_several_dimensions_is_flat(run: Run, name: str):
    with Region.create(name, shape=(2, 2), dtype="float32"):
        assert run("dump", name)[1] == "0: 0.0 0.0 0.0 0.0\n"


def test_dump_needs_no_permission_to_write(run: Run, words: Region):
    os.chmod(f"/dev/shm/{words.name}", 0o400)
    assert run("dump", words.name)[0] == 0


def test_dump_of_a_damaged_region_as_raw_saves_its_data(run: Run, words: Region):
    with open(f"/dev/shm/{words.name}", "r+b") as file:
        file.seek(4096 + 30)
        file.write(b"\xff")
    status, _, err = run("dump", words.name)
    assert status == 3
    assert "damaged control page" in err
    assert err.count("\n") == 1
    assert run("dump", "--layout", "raw", "--count", "8", "--raw", words.name)[0] == 0


def test_dump_says_who_holds_the_lock_it_did_not_get(run: Run, words: Region, rival: Rival):
    rival.do("exclusive")
    status, out, err = run("dump", "-w", "0.01", words.name)
    assert (status, out) == (1, "")
    command = Path(f"/proc/{rival.process.pid}/comm").read_text().strip()
    assert err == (
        f"shm-async: {words.name}: the lock was not granted in time: "
        f"held by {rival.process.pid} {command} (write)\n"
    )


def test_dump_after_a_death_says_so_and_can_be_told_to_go_on(run: Run, words: Region):
    writer_dies(words)
    status, _, err = run("dump", words.name)
    assert status == 3
    assert "may be half-written" in err
    assert "set --recover" in err
    assert run("dump", "--ignore-death", words.name)[0] == 0


def test_a_reader_that_goes_away_is_no_noise(name: str):
    with Region.create(name, 1 << 20):
        done = subprocess.run(
            f"{sys.executable} -m shm_async dump {name} | head -n 1; echo ${{PIPESTATUS[0]}}",
            shell=True, executable="/bin/bash",
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "141"


# ---- get and set ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "values"),
    [
        (["2"], ["2"]),
        (["-1"], ["7"]),
        (["0x3"], ["3"]),
        (["2:5"], ["2", "3", "4"]),
        (["6:"], ["6", "7"]),
        (["5:2"], []),
        ([], [*"01234567"]),
    ],
)
def test_get_prints_a_line_for_each_element(run: Run, words: Region, index, values):
    assert run("get", words.name, *index) == (0, "".join(f"{value}\n" for value in values), "")


def test_get_json_is_an_array(run: Run, words: Region):
    assert json.loads(run("get", "--json", words.name, "2:4")[1]) == [2, 3]


@pytest.mark.parametrize("index", ["8", "-9", "x", "1,1", "1:x"])
def test_get_refuses_what_is_not_there(run: Run, words: Region, index: str):
    status, _, err = run("get", words.name, index)
    assert (status, err.count("\n")) == (2, 1)


def test_an_index_may_have_all_dimensions(run: Run, name: str):
    with Region.create(name, shape=(2, 3)) as region:
        assert run("set", name, "1,2", "9")[0] == 0
        assert region.buffer[1, 2] == 9
        assert run("get", name, "1,-1")[1] == "9\n"
        assert run("get", name, "2,0")[0] == 2


@pytest.mark.parametrize(
    ("dtype", "text", "stored", "shown"),
    [
        ("int8", "-3", -3, "-3"),
        ("uint64", "0xffffffffffffffff", 2**64 - 1, str(2**64 - 1)),
        ("float64", "2.5", 2.5, "2.5"),
        ("float32", "inf", float("inf"), "inf"),
        ("bool", "true", True, "true"),
        ("bool", "0", False, "false"),
        ("uint8_clamped", "300", 255, "255"),
        ("uint8_clamped", "2.6", 3, "3"),
    ],
)
def test_set_stores_what_get_prints(run: Run, name: str, dtype: str, text: str, stored, shown):
    with Region.create(name, 2, dtype=dtype) as region:
        assert run("set", name, "1", text) == (0, "", "")
        assert region.buffer[1] == stored
        assert run("get", name, "1")[1] == f"{shown}\n"


def test_set_stores_several_under_one_lock(run: Run, words: Region):
    before = words.generation
    assert run("set", words.name, "1", "10", "11")[0] == 0
    assert list(words.buffer)[:4] == [0, 10, 11, 3]
    assert words.generation == before + 2


@pytest.mark.parametrize("values", [["1", "x"], ["1", "-1"], ["1"] * 9, ["1", str(2**64)]])
def test_set_stores_all_or_nothing(run: Run, words: Region, values: list[str]):
    status, _, err = run("set", words.name, "0", *values)
    assert (status, err.count("\n")) == (2, 1)
    assert list(words.buffer) == [*range(8)]


def stdin_of(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(buffer=io.BytesIO(data))


def test_set_reads_bytes_from_stdin(run: Run, words: Region, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", stdin_of(b"\1\0\0\0"))
    assert run("set", words.name, "2", "-")[0] == 0
    assert list(words.buffer)[:4] == [0, 1, 1, 3]


def test_too_many_bytes_are_refused(run: Run, words: Region, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", stdin_of(bytes(9)))
    status, _, err = run("set", words.name, "-1", "-")
    assert status == 2
    assert "9 bytes do not fit: 8 bytes follow index 7" in err
    assert words.buffer[7] == 7


def test_set_recover_makes_a_region_sound(run: Run, words: Region):
    writer_dies(words)
    assert run("set", words.name, "0", "5")[0] == 3
    assert run("set", "--recover", words.name, "0", "5")[0] == 0
    with words.read_lock() as view:
        assert view[0] == 5


def test_set_says_who_holds_the_lock_it_did_not_get(run: Run, words: Region, rival: Rival):
    rival.do("shared")
    status, _, err = run("set", "-w", "0", words.name, "0", "1")
    assert status == 1
    assert f"held by {rival.process.pid} " in err


def test_a_bad_signal_in_the_environment_is_no_traceback(region: Region):
    done = subprocess.run(
        [sys.executable, "-m", "shm_async", "get", region.name],
        env={**os.environ, "SHM_ASYNC_SIGNAL": "SIGKILL"},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("shm-async: SHM_ASYNC_SIGNAL='SIGKILL' is no signal")


# ---- create, rm, resize, prune ---------------------------------------------------------------


def test_create_makes_what_it_is_told_to(run: Run, name: str):
    assert run("create", name, "--shape", "2x3", "--dtype", "f", "--mode", "640") == (0, "", "")
    with Region.attach(name) as region:
        assert (region.shape, region.dtype, region.layout) == ((2, 3), "float32", "managed")
        assert os.stat(f"/dev/shm/{name}").st_mode & 0o777 == 0o640


@pytest.mark.parametrize("layout", ["raw", "sized"])
def test_create_knows_all_layouts(run: Run, name: str, layout: str):
    assert run("create", name, "16", "--layout", layout)[0] == 0
    assert os.stat(f"/dev/shm/{name}").st_size == (16 if layout == "raw" else 24)
    assert run("get", "--layout", layout, name, "15")[1] == "0\n"


def test_create_and_rm_of_a_key(run: Run, sysv_key: int):
    assert run("create", "--key", str(sysv_key), "4")[0] == 0
    assert run("set", f"{sysv_key:#x}", "0", "7")[0] == 0
    assert run("get", "--key", str(sysv_key), "0")[1] == "7\n"
    assert run("rm", f"{sysv_key:#x}")[0] == 0
    assert run("rm", f"{sysv_key:#x}")[0] == 1


def test_create_refuses_a_name_that_is_taken(run: Run, words: Region):
    status, _, err = run("create", words.name, "4")
    assert status == 3
    assert "exists already" in err


@pytest.mark.parametrize(
    "arguments", [[], ["0"], ["x"], ["5", "--shape", "2x3"], ["5", "--mode", "999"], ["-1"]]
)
def test_create_refuses_nonsense(run: Run, name: str, arguments: list[str]):
    assert run("create", name, *arguments)[0] == 2
    assert not os.path.exists(f"/dev/shm/{name}")


def test_rm_tries_each_name(run: Run, name: str):
    Path(f"/dev/shm/{name}").write_bytes(b"x")
    status, _, err = run("rm", "nobody-has-this-name", name)
    assert status == 1
    assert err.count("\n") == 1
    assert not os.path.exists(f"/dev/shm/{name}")
    assert run("rm", "--force", name) == (0, "", "")


def test_rm_removes_a_damaged_region(run: Run, words: Region):
    os.truncate(f"/dev/shm/{words.name}", 100)
    assert run("rm", words.name)[0] == 0


def test_rm_leaves_alone_what_is_no_object(run: Run, name: str):
    os.mkfifo(f"/dev/shm/{name}")
    status, _, err = run("rm", name)
    assert status == 3
    assert "is a FIFO" in err


def test_resize_keeps_the_data(run: Run, words: Region):
    assert run("resize", words.name, "10")[0] == 0
    assert run("get", words.name, "6:")[1] == "6\n7\n0\n0\n"


def test_prune_tells_and_removes_only_if_it_must(run: Run, name: str):
    Region.create(name, 4).close()
    assert run("prune", name) == (0, f"{name}\n", "")
    assert os.path.exists(f"/dev/shm/{name}")
    assert json.loads(run("prune", "--json", name)[1]) == [name]
    assert run("prune", "--force", name)[1] == f"{name}\n"
    assert shm_async.inspect(name) == ()
