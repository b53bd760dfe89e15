"""The interpreter exits at once, whatever is held or waited for."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import Rival

from shm_async import Region

BEGIN = """
import asyncio, os, sys, time
from shm_async import Region
region = Region.attach(sys.argv[1])
"""

WAITS = {
    "asyncio": """
async def main():
    task = asyncio.ensure_future(region.write_lock().acquire())
    await asyncio.sleep(0.05)
asyncio.run(main())
""",
    "uvloop": """
import uvloop
async def main():
    task = asyncio.ensure_future(region.write_lock().acquire())
    await asyncio.sleep(0.05)
uvloop.run(main())
""",
    "trio": """
import trio
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(region.write_lock().acquire)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
trio.run(main)
""",
    "a loop that was dropped": """
loop = asyncio.new_event_loop()
task = loop.create_task(region.write_lock().acquire())
task._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0.05))
""",
    "sys.exit in a task": """
async def main():
    task = asyncio.ensure_future(region.write_lock().acquire())
    await asyncio.sleep(0.05)
    sys.exit(0)
asyncio.run(main())
""",
    "a daemon thread": """
import threading
threading.Thread(target=region.write_lock().acquire_blocking, daemon=True).start()
time.sleep(0.05)
""",
    "a loop in a daemon thread": """
import threading
threading.Thread(target=asyncio.run, args=[region.write_lock().acquire()], daemon=True).start()
time.sleep(0.05)
""",
    "os._exit": """
async def main():
    task = asyncio.ensure_future(region.write_lock().acquire())
    await asyncio.sleep(0.05)
    os._exit(0)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("wait", WAITS)
def test_exit_with_a_waiter_blocked(region: Region, rival: Rival, run_python, wait: str):
    rival.do("exclusive")
    start = time.monotonic()
    done = run_python(BEGIN + WAITS[wait])
    assert time.monotonic() - start < 10  # not for ever; how fast is measured elsewhere
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exit_while_holding_frees_the_lock(region: Region, rival: Rival, run_python):
    program = """
import asyncio, os, sys
from shm_async import Region
region = Region.attach(sys.argv[1])
async def main():
    await region.write_lock().acquire()
    os._exit(0)
asyncio.run(main())
"""
    run_python(program)
    assert rival.do("try-exclusive") == "done"


def test_ctrl_c_ends_a_program_whose_tasks_wait(region: Region):
    program = """
import asyncio, sys
from shm_async import Region
region = Region.attach(sys.argv[1])
async def main():
    print("ready", flush=True)
    async with region.write_lock():
        pass
asyncio.run(main())
"""
    with region.write_lock():
        child = subprocess.Popen(
            [sys.executable, "-c", program, region.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=10)
        assert child.returncode in (1, -signal.SIGINT)
        assert "KeyboardInterrupt" in errors
