"""The port of shm-typed-array and the original, in a Node process, over the same segments."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import (
    LIVES,
    NODE_DIR,
    ROOT,
    NodeError,
    Peer,
    environment,
    life_of,
    need_node,
    segment_of,
)

from shm_async import Region
from shm_async import shm_typed_array as shm
from shm_async._memory.names import companion_of

EXTREMES = {
    "Buffer": [0, 1, 255],
    "Int8Array": [-128, 0, 127],
    "Uint8Array": [0, 1, 255],
    "Uint8ClampedArray": [0, 1, 255],
    "Int16Array": [-(2**15), 0, 2**15 - 1],
    "Uint16Array": [0, 1, 2**16 - 1],
    "Int32Array": [-(2**31), 0, 2**31 - 1],
    "Uint32Array": [0, 1, 2**32 - 1],
    "Float32Array": [-1.5, 0.1015625, float("inf")],
    "Float64Array": [-1e300, 0.1, float("-inf")],
}
pytestmark = pytest.mark.usefixtures("nothing_stays_attached")
TYPES = pytest.mark.parametrize("type_key", EXTREMES)
KINDS = pytest.mark.parametrize("kind", ["posix", "sysv"])


@pytest.fixture(scope="module")
def node() -> Iterator[Peer]:
    """One Node process for all tests that need no exit: each leaves it with nothing attached."""
    with Peer() as peer:
        yield peer


@pytest.fixture
def key(kind: str, request: pytest.FixtureRequest) -> int | str:
    if kind == "posix":
        return "/" + str(request.getfixturevalue("name"))
    return int(request.getfixturevalue("sysv_key"))


# ---- data --------------------------------------------------------------------


def test_both_know_the_same_types_by_the_same_numbers(node: Peer):
    assert (
        node.ask("constant", name="BufferType")
        == shm.BufferType
        == dict(zip(EXTREMES, range(10), strict=True))
    )
    assert node.ask("constant", name="LengthMax") >= shm.LENGTH_MAX


@TYPES
@KINDS
def test_python_creates_and_node_reads_and_writes(node: Peer, key: int | str, type_key: str):
    values = EXTREMES[type_key]
    ours = shm.create(4, type_key, key)
    assert ours is not None
    ours[:3] = values
    theirs = node.get(key, type_key)
    assert theirs is not None
    assert (theirs.kind, theirs.length) == (type_key, 4)
    assert theirs.read() == [*values, 0]
    theirs.write(values[:1], at=3)
    assert list(ours) == [*values, values[0]]
    node.detach(key)
    assert shm.destroy(key)


@TYPES
@KINDS
def test_node_creates_and_python_reads_and_writes(node: Peer, key: int | str, type_key: str):
    values = EXTREMES[type_key]
    theirs = node.create(4, type_key, key)
    assert theirs is not None
    theirs.write(values)
    ours = shm.get(key, type_key)
    assert ours is not None
    assert (type(ours).__name__, len(ours)) == (type_key, 4)
    assert list(ours) == [*values, 0]
    ours[3] = values[0]
    assert theirs.read() == [*values, values[0]]
    shm.detach(key)
    assert node.destroy(key)


CLAMPED = [-1, 0.5, 1.5, 2.5, 254.5, 255.5, 300, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("kind", ["posix"])
def test_clamping_stores_what_node_stores(node: Peer, key: str):
    ours = shm.create(len(CLAMPED), "Uint8ClampedArray", key)
    theirs = node.get(key, "Uint8ClampedArray")
    assert ours is not None
    assert theirs is not None
    theirs.write(CLAMPED)
    expected = theirs.read()
    ours[:] = bytes(len(ours))
    ours[:] = CLAMPED
    assert list(ours) == expected == [0, 0, 2, 2, 254, 255, 255, 255, 0, 0]
    with Region.attach(key, dtype="Uint8ClampedArray", layout="sized") as region:
        region.buffer[:] = bytes(len(ours))
        for index, value in enumerate(CLAMPED):
            region.buffer[index] = value
        assert theirs.read() == expected
    node.detach(key)


@KINDS
def test_another_type_sees_the_same_bytes_in_other_pieces(node: Peer, key: int | str):
    theirs = node.create(2, "Float64Array", key)
    assert theirs is not None
    theirs.write([1.0])
    ours = shm.get(key, "Uint32Array")
    assert ours is not None
    assert list(ours) == [0, 0x3FF00000, 0, 0]
    shm.detach(key)
    node.destroy(key)


# ---- what the calls return ----------------------------------------------------


@KINDS
def test_the_original_returns_what_the_port_is_tested_for(key: int | str, kind: str):
    with Peer() as node:
        assert life_of(key, kind, node, node.totals) == list(map(repr, LIVES[kind]))


@pytest.mark.parametrize("kind", ["sysv"])
def test_the_last_one_to_detach_destroys_whoever_it_is(node: Peer, key: int):
    ours = shm.create(8, "Buffer", key)
    assert ours is not None
    node.get(key)
    assert shm.detach(key) == 1  # though the array is still there
    assert segment_of(key) is not None
    assert node.detach(key) == 0
    assert segment_of(key) is None

    node.create(8, "Buffer", key)
    ours = shm.get(key)
    assert node.detach(key) == 1
    assert shm.detach(key) == 0
    assert segment_of(key) is None
    assert ours is not None
    with pytest.raises(ValueError, match="is detached: get it again"):
        ours[0]


@pytest.mark.parametrize("kind", ["sysv"])
def test_a_forced_destruction_takes_the_key_at_once_and_leaves_the_others_their_memory(
    node: Peer, key: int
):
    ours = shm.create(8, "Buffer", key)
    theirs = node.get(key)
    assert ours is not None
    assert theirs is not None
    assert node.destroy(key)
    assert shm.get(key) is None
    ours[0] = 5
    assert ours[0] == 5
    assert shm.detach(key) == -1


@pytest.mark.parametrize("kind", ["posix"])
def test_a_posix_object_stays_until_it_is_destroyed(node: Peer, key: str):
    shm.create(8, "Float64Array", key)
    assert shm.detach(key) == 1
    assert node.get(key, "Float64Array") is not None
    assert node.detach(key) == 1
    assert shm.destroy(key)
    assert not node.destroy(key)
    assert node.get(key) is None


def test_each_makes_its_own_keys_where_none_is_given(node: Peer):
    theirs, ours = node.create(5), shm.create(5)
    assert theirs is not None
    assert theirs.key is not None
    assert ours is not None
    assert isinstance(ours.key, int)
    for key in (theirs.key, ours.key):
        assert 1 <= key <= 2**32 - 2
        assert (segment_of(key) or {})["size"] == 5
    assert shm.get(theirs.key) is not None
    assert node.get(ours.key) is not None
    assert shm.detach(theirs.key) == 1
    assert node.detach(ours.key) == 1
    assert node.detach(theirs.key) == 0
    assert shm.detach(ours.key) == 0


@KINDS
def test_totals_agree_across_the_two(key: int | str):
    header = 8 if isinstance(key, str) else 0
    with Peer() as node:
        array = shm.create(100, "Int16Array", key)
        assert (shm.get_total_size(), shm.get_total_created_size()) == (200 + header, 200 + header)
        node.get(key, "Int16Array")
        assert node.totals() == (200 + header, 0)
        again = shm.get(key, "Int16Array")
        assert array is not None
        assert again is not None
        assert again.region is array.region  # the same attachment, where the original adds one
        assert shm.get_total_size() == 200 + header
        node.detach(key)
        shm.destroy(key)
        assert (shm.get_total_size(), shm.get_total_created_size()) == (0, 0)


WRONG = [
    ("create", 0),
    ("create", -1),
    ("create", 1.5),
    ("create", 2**32 + 1),
    ("create", 1, "Nope"),
    ("create", 1, "Buffer", 0),
    ("create", 1, "Buffer", -1),
    ("create", 1, "Buffer", 2**32 - 1),
    ("create", 1, "Buffer", 1.5),
    ("create", 1, "Buffer", "/a/b"),
    ("create", 1, "Buffer", ""),
    ("get", 0),
    ("get", 2**32 - 1),
    ("get", 1, "Nope"),
    ("get", ""),
]


@pytest.mark.parametrize("call", WRONG, ids=str)
def test_what_the_original_refuses_the_port_refuses(node: Peer, call: tuple[object, ...]):
    verb, *arguments = call
    with pytest.raises(NodeError):
        getattr(node, str(verb))(*arguments)
    with pytest.raises((ValueError, TypeError)):
        getattr(shm, str(verb))(*arguments)


# ---- exits -------------------------------------------------------------------

CREATES_ONE_OF_EACH = """
import sys
from shm_async import shm_typed_array as shm
from shm_async._memory.names import companion_of
shm.create(4, "Buffer", int(sys.argv[2]))
shm.create(4, "Buffer", "/" + sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
"""


def start_python(name: str, sysv_key: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", CREATES_ONE_OF_EACH, name, str(sysv_key)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("exits", ["python", "node"])
def test_exit_destroys_segments_and_leaves_posix_objects(name: str, sysv_key: int, exits: str):
    if exits == "node":
        with Peer() as peer:
            peer.create(4, "Buffer", sysv_key)
            peer.create(4, "Buffer", f"/{name}")
            assert peer.exit() == "shm segments destroyed: 1\n"
    else:
        with start_python(name, sysv_key) as process:
            assert process.communicate("\n")[0] == ""
        assert process.returncode == 0
    assert segment_of(sysv_key) is None
    assert Path(f"/dev/shm/{name}").exists()
    assert shm.get(f"/{name}") is not None


def test_exit_leaves_what_the_other_one_is_attached_to(node: Peer, name: str, sysv_key: int):
    with start_python(name, sysv_key) as process:
        assert node.get(sysv_key) is not None
        process.communicate("\n")
    assert segment_of(sysv_key) is not None
    assert node.detach(sysv_key) == 0


# ---- the lock that is extra ------------------------------------------------------


@KINDS
def test_an_arrays_region_has_a_lock_and_node_goes_on_without_one(node: Peer, key: int | str):
    theirs = node.create(4, "Uint32Array", key)
    ours = shm.get(key, "Uint32Array")
    assert ours is not None
    assert theirs is not None
    with ours.region.write_lock() as view:
        view[0] = 7
        theirs.write([8], at=1)
        assert list(view) == [7, 8, 0, 0]
    assert node.destroy(key)
    shm.detach(key)  # who closes what is gone removes the companion, too


@pytest.mark.parametrize("kind", ["sysv"])
def test_a_companion_whose_segment_node_destroys_after_us_serves_the_keys_next_user(
    node: Peer, key: int
):
    companion = Path(f"/dev/shm/{companion_of(key)}")
    node.create(4, "Buffer", key)
    ours = shm.get(key)
    assert ours is not None
    with ours.region.write_lock():
        assert companion.exists()
    assert shm.detach(key) == 1
    assert node.destroy(key)  # Node knows nothing of it
    assert companion.exists()
    assert shm.create(4, "Buffer", key) is not None
    assert shm.detach(key) == 0
    assert not companion.exists()


@KINDS
def test_a_region_reads_what_node_made(node: Peer, key: int | str):
    theirs = node.create(4, "Float64Array", key)
    assert theirs is not None
    theirs.write([1.5, 2.5])
    layout = "sized" if isinstance(key, str) else "raw"
    with Region.attach(key, dtype="Float64Array", layout=layout) as region:
        assert list(region.buffer) == [1.5, 2.5, 0, 0]
    assert node.destroy(key)


# ---- the original's example ------------------------------------------------------

SAID = """\
[Master] Typeof buf: Buffer Typeof arr: Float32Array
[Worker] Typeof buf: Buffer Typeof arr: Float32Array
0 [Master] Set buf[0]= 2  arr[0]= 5
0 [Worker] Get buf[0]= 2  arr[0]= 5
1 [Master] Set buf[0]= 3  arr[0]= 2.5
1 [Worker] Get buf[0]= 3  arr[0]= 2.5
2 [Master] Set buf[0]= 4  arr[0]= 1.25
2 [Worker] Get buf[0]= 4  arr[0]= null
3 [Master] Set buf[0]= 5  arr[0]= 0.625
3 [Worker] Get buf[0]= 5  arr[0]= null
4 [Master] Set buf[0]= 6  arr[0]= 0.3125
shm segments destroyed: 2
"""


def cluster(language: str, *role: str) -> list[str]:
    if language == "python":
        return [sys.executable, str(ROOT / "examples" / "shm_typed_array_cluster.py"), *role]
    role = role or ("master",)
    return [
        need_node(),
        str(ROOT / "tests" / "interop" / "node" / "cluster.js"),
        str(NODE_DIR),
        *role,
    ]


@pytest.mark.parametrize("worker", ["python", "node"])
@pytest.mark.parametrize("master", ["python", "node"])
def test_the_originals_example_says_the_same_whoever_plays_which_part(master: str, worker: str):
    command = [*cluster(master), *cluster(worker, "worker")]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env=environment()
    )
    assert result.stderr == ""
    assert result.stdout == SAID
    assert result.returncode == 0


def test_the_environment_of_these_tests_is_the_pinned_package(node: Peer):
    package = (NODE_DIR / "node_modules" / "shm-typed-array" / "package.json").read_text()
    assert '"version": "0.1.1"' in package
    assert os.path.exists(f"/proc/{node.process.pid}")
