"""The garbage collector ends things in an order of its own: never a crash, never a lock left."""

import pytest
from rivals import Rival

from shm_async import Region

GARBAGE = {
    "a hold in a cycle with its region": """
class Service: pass
service = Service(); service.me = service
service.region = region
service.hold = region.write_lock(); service.hold.acquire_blocking()
del service, region
gc.collect()
""",
    "a view used by a finalizer in a cycle with its region": """
class Service: pass
class Late:
    def __del__(self): self.view[0]
service = Service(); service.me = service
service.region = region
service.late = Late(); service.late.view = region.buffer; service.late.service = service
del service, region
gc.collect()
""",
    "an async hold in a cycle with its region": """
class Service: pass
async def main(region):
    service = Service(); service.me = service
    service.region = region
    service.hold = region.write_lock(); await service.hold.acquire()
asyncio.run(main(region))
del region
gc.collect()
""",
    "a task that waits in a loop that is never closed": """
async def wait():
    async with region.write_lock(): pass
other = Region.attach(sys.argv[1])
hold = other.write_lock(); hold.acquire_blocking()
a = loop = asyncio.new_event_loop()
zz = tasks = [loop.create_task(wait()) for _ in range(3)]
for task in tasks: task._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0.05))
""",
    "a task that holds in a loop that is closed": """
async def hold():
    async with region.write_lock(): await asyncio.sleep(1000)
loop = asyncio.new_event_loop()
task = loop.create_task(hold())
task._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
try:
    region.write_lock(timeout=0.05).acquire_blocking()
except TimeoutError:  # its block can still write
    pass
else:
    print("two are inside")
del task
gc.collect()  # ends its block, unless its lock is torn down before it
with region.write_lock(timeout=5, recover=True) as view:
    view[0] = 1
""",
    "a task that holds in a loop that is dropped": """
async def hold():
    async with region.write_lock(): await asyncio.sleep(1000)
loop = asyncio.new_event_loop()
task = loop.create_task(hold())
task._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0.01))
""",
}


BEGIN = """
import asyncio, gc, sys, warnings
from shm_async import Region
warnings.simplefilter("ignore", ResourceWarning)
region = Region.attach(sys.argv[1])
"""


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_ends_without_a_crash_and_holds_nothing(
    region: Region, rival: Rival, run_python, garbage: str
):
    done = run_python(BEGIN + GARBAGE[garbage] + "print('end', flush=True)\n")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert rival.do("try-exclusive") == "done"
