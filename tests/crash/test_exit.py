"""The interpreter exits at once, whatever is held or waited for."""

import time

import pytest
from rivals import Rival

from shm_async import Region

BEGIN = """
import asyncio, os, sys, time
from shm_async import Region
region = Region.attach(sys.argv[1])
def waits():  # whoever waits stands at the gate
    return region._table.usable().gate[0] == 1
async def until_it_waits(sleep=asyncio.sleep):
    while not waits():
        await sleep(0.001)
def exiting():
    print(time.monotonic(), flush=True)
async def main():
    task = asyncio.ensure_future(region.write_lock().acquire())
    await until_it_waits()
    exiting()
"""


WAITS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop; uvloop.run(main())",
    "trio": """
import trio
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(region.write_lock().acquire)
        await until_it_waits(trio.sleep)
        exiting()
        nursery.cancel_scope.cancel()
trio.run(main)
""",
    "a loop that was dropped": """
loop = asyncio.new_event_loop()
task = loop.create_task(region.write_lock().acquire())
task._log_destroy_pending = False
loop.run_until_complete(until_it_waits())
exiting()
""",
    "a dropped loop's region that is closed": """
loop = asyncio.new_event_loop()
task = loop.create_task(region.write_lock().acquire())
task._log_destroy_pending = False
loop.run_until_complete(until_it_waits())
exiting()
region.close()
""",
    "sys.exit in a task": """
async def leave():
    await main()
    sys.exit(0)
asyncio.run(leave())
""",
    "an error in a task": """
async def fail():
    await main()
    raise RuntimeError
try:
    asyncio.run(fail())
except RuntimeError:
    pass
""",
    "a daemon thread": """
import threading
threading.Thread(target=region.write_lock().acquire_blocking, daemon=True).start()
asyncio.run(until_it_waits())
exiting()
""",
    "many daemon threads": """
import threading
for _ in range(12):
    threading.Thread(target=region.write_lock().acquire_blocking, daemon=True).start()
asyncio.run(until_it_waits())
exiting()
""",
    "a loop in a daemon thread": """
import threading
threading.Thread(target=asyncio.run, args=[region.write_lock().acquire()], daemon=True).start()
asyncio.run(until_it_waits())
exiting()
""",
    "a thread that is closed": """
import threading
from shm_async import RegionClosedError
def wait():
    try:
        region.write_lock().acquire_blocking()
    except RegionClosedError:
        pass
threading.Thread(target=wait).start()
asyncio.run(until_it_waits())
exiting()
region.close()
""",
    "os._exit": """
async def leave():
    await main()
    os._exit(0)
asyncio.run(leave())
""",
}


#: Seconds. What goes wrong here lasts one (a waiting thread that cannot be stopped) or for ever.
AT_ONCE = 0.5


#: The machine may be busy with something else, which makes it slower, but never faster.
TRIES = 5


@pytest.mark.parametrize("choice", ["", "off"], ids=["signal", "polling"])
@pytest.mark.parametrize("wait", WAITS)
def test_exit_with_a_waiter_blocked(
    region: Region,
    rival: Rival,
    run_python,
    monkeypatch: pytest.MonkeyPatch,
    wait: str,
    choice: str,
):
    monkeypatch.setenv("SHM_ASYNC_SIGNAL", choice)
    rival.do("exclusive")
    seconds = []
    while not seconds or (min(seconds) >= AT_ONCE and len(seconds) < TRIES):
        done = run_python(BEGIN + WAITS[wait])
        assert (done.returncode, done.stderr) == (0, "")
        seconds.append(time.monotonic() - float(done.stdout))
    assert min(seconds) < AT_ONCE, seconds


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
