"""Arrays of shm_typed_array that are dropped, and processes that exit, fork or are signalled."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from arrays import got, made
from peers import segment_of

from shm_async import Region
from shm_async import shm_typed_array as shm

pytestmark = pytest.mark.usefixtures("nothing_stays_attached")


# ---- look-ups that come again and again --------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["sysv", "posix"])
def test_what_is_got_for_each_message_and_dropped_leaves_nothing_behind(
    kind: str, name: str, sysv_key: int
):
    key = sysv_key if kind == "sysv" else name
    made(10, "Uint32Array", key)[3] = 7
    before = descriptors(), shm.get_total_size()
    for _ in range(50):
        array = got(key, "Uint32Array")
        with array.region.read_lock() as view:
            assert (array[3], view[3]) == (7, 7)
        del array, view
        assert got(key, "Buffer")[12] in (0, 7)
    # a System V segment stays attached, and its first lock has opened its companion
    assert descriptors() - before[0] <= (3 if kind == "sysv" else 0)
    assert shm.get_total_size() == before[1]
    assert shm.destroy(key)


def test_a_name_for_each_message_leaves_nothing_behind(name: str):
    before, known = descriptors(), len(shm._known)
    with ExitStack() as cleanup:
        for number in range(3 * shm.TIDY_FROM):
            with Region.create(f"{name}-{number}", 4, layout="sized") as sender:
                cleanup.callback(Path(f"/dev/shm/{name}-{number}").unlink, missing_ok=True)
                with got(sender.name).region.write_lock() as view:
                    view[0] = 1
                del view
                sender.unlink()
    assert descriptors() == before
    assert len(shm._known) <= known + shm.TIDY_FROM


def test_what_is_got_again_is_the_same_attachment(name: str):
    made(4, "Buffer", name)
    one, two = got(name), got(name)
    assert one is not two
    assert one.region is two.region
    os.unlink(f"/dev/shm/{name}")
    made(8, "Buffer", name)
    assert got(name).region is not one.region


def test_a_region_that_is_kept_keeps_its_attachment(name: str):
    made(4, "Buffer", name)
    region = got(name).region
    with region.write_lock() as view:
        view[0] = 3
    assert not region.closed
    assert shm.get_total_size() == 4 + 8


def test_a_view_that_is_kept_sees_the_memory_although_its_array_was_dropped(name: str):
    kept = made(4, "Buffer", name)[:]
    got(name)[1] = 9
    assert kept[1] == 9
    assert shm.detach(name) == 1
    assert kept[1] in (0, 9)  # stale, but no crash


def test_data_of_a_system_v_segment_outlives_the_array_that_its_creator_dropped(
    sysv_key: int, run_python
):
    made(4, "Buffer", sysv_key)[0] = 5
    other = "import sys; from shm_async import shm_typed_array as s\n"
    other += "key = int(sys.argv[2]); array = s.get(key); print(s.detach(key))"
    assert run_python(other, str(sysv_key)).stdout == "1\n"
    assert got(sysv_key)[0] == 5
    assert shm.detach(sysv_key) == 0


# ---- exits, forks, signals ---------------------------------------------------------------------


def test_a_childs_exit_destroys_nothing_that_its_parent_has(name: str, run_python, sysv_key: int):
    result = run_python(
        """
import os, sys, time
from shm_async import shm_typed_array as shm
key = int(sys.argv[2])
array = shm.create(4, "Buffer", key)
child = os.fork()
if child == 0:
    array[0] = 7
    print("child created", shm.get_total_created_size(), "of", shm.get_total_size())
    sys.exit(0)  # with its clean-up
os.waitpid(child, 0)
again = shm.get(key)
print(again is not None and again[0], shm.get_total_created_size())
while array.region.attachments > 1:  # the dead one counts while others read what it has mapped
    time.sleep(0.001)
""",
        str(sysv_key),
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["child created 0 of 4", "7 4"]
    assert segment_of(sysv_key) is None


def test_a_child_that_outlives_its_parent_destroys_what_it_was_the_last_to_have(
    run_python, sysv_key: int
):
    result = run_python(
        """
import os, sys, time
from shm_async import shm_typed_array as shm
key = int(sys.argv[2])
array = shm.create(4, "Buffer", key)
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.close(write_end)
    os.read(read_end, 1)  # until the parent is gone
    while array.region.attachments > 1:  # it still counts while others read what it has mapped
        time.sleep(0.001)
    print("child has", array[0], shm.detach(key), flush=True)
    os._exit(0)
array[0] = 9
sys.stdout.flush()
""",
        str(sysv_key),
    )
    assert result.stdout == "child has 9 0\n"
    assert segment_of(sysv_key) is None


SIGNALLED = """
import os, signal, sys
from shm_async import shm_typed_array as shm
def mine(*_):
    os.write(1, b"mine ran\\n")  # print may be what the signal interrupts
    os._exit(3)
if sys.argv[2] == "handler":
    signal.signal(signal.SIGTERM, mine)
elif sys.argv[2] == "ignored":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
shm.create(4, "Buffer", int(sys.argv[1]))
shm.cleanup_on_signals()
shm.cleanup_on_signals()
print("ready", flush=True)
sys.stdin.readline()
"""


def signalled(key: int, kind: str, number: signal.Signals) -> tuple[str, int]:
    with subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(key), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert segment_of(key) is not None
        process.send_signal(number)
        return process.communicate("\n", timeout=20)[0], process.returncode


def test_a_deadly_signal_cleans_up_and_still_kills(sysv_key: int):
    assert signalled(sysv_key, "default", signal.SIGTERM) == ("", -signal.SIGTERM)
    assert segment_of(sysv_key) is None


def test_ctrl_c_cleans_up_and_is_still_a_keyboard_interrupt(sysv_key: int):
    printed, code = signalled(sysv_key, "default", signal.SIGINT)
    assert (printed, code) == ("", -signal.SIGINT)
    assert segment_of(sysv_key) is None


def test_the_handler_that_was_there_runs_after_the_clean_up(sysv_key: int):
    assert signalled(sysv_key, "handler", signal.SIGTERM) == ("mine ran\n", 3)
    assert segment_of(sysv_key) is None


def test_a_signal_that_was_ignored_stays_ignored(sysv_key: int):
    assert signalled(sysv_key, "ignored", signal.SIGTERM) == ("", 0)
    assert segment_of(sysv_key) is None  # by the end of the program
