"""A camera at 60 frames a second, and readers that never see a torn frame: trio.

    make example NAME=sensor_frames

One process writes frames of 640 x 480 bytes. Two others wait for each change, copy the newest frame
and check that all of its bytes are of one frame. After a second the producer is killed,
in the middle of a frame if it comes so, and a new one takes over.

Use it when readers want the newest value and may miss older ones: a slow reader never holds up the
producer. Do not use it where each message counts: that is a queue.
"""

import os
import subprocess
import sys
import time

import trio

from shm_async import OwnerDiedError, Region

WIDTH, HEIGHT = 640, 480
RATE = 60  # frames a second
RUN = 1.0  # seconds before the kill, and after it


def picture(number: int) -> bytes:
    """What the sensor sees: all bytes of a frame are alike, and differ from the next one's."""
    return bytes([number % 251]) * (WIDTH * HEIGHT)


async def produce(name: str) -> None:
    # "ignore": whatever a dead producer left, this one writes the whole frame anew
    with Region.attach(name, on_owner_death="ignore") as region:
        number = (region.generation or 0) // 2
        due = trio.current_time()
        while True:
            number += 1
            frame = picture(number)
            async with region.write_lock() as view:
                view[:] = frame
            due = max(due + 1 / RATE, trio.current_time())
            await trio.sleep_until(due)


async def read(name: str) -> None:
    """Look at frames for a while, and tell what was seen."""
    frames = torn = 0
    frame = bytearray(WIDTH * HEIGHT)
    with Region.attach(name) as region, trio.move_on_after(2 * RUN):
        since = 0
        while True:
            try:
                since = await region.wait_changed(since=since)
                await region.snapshot_async(into=frame)
            except OwnerDiedError:  # it is half-written: the next producer writes a whole one
                await trio.sleep(1 / RATE)
                continue
            frames += 1
            torn += frame.count(frame[0]) < len(frame)
    print(f"reader {os.getpid()}: {frames} frames, {torn} of them torn", flush=True)


def start(role: str, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, role, name], start_new_session=True)


def main() -> None:
    name = f"sensor-frames-{os.getpid()}"
    with Region.create(name, WIDTH * HEIGHT, unlink="creator"):
        readers = [start("read", name) for _ in range(2)]
        producer = start("produce", name)
        try:
            time.sleep(RUN)
            producer.kill()  # SIGKILL
            producer.wait()
            print("the producer was killed, and another one takes over", flush=True)
            producer = start("produce", name)
            for reader in readers:
                reader.wait()
        finally:
            for process in (producer, *readers):
                process.kill()
                process.wait()


if __name__ == "__main__":
    try:
        if len(sys.argv) > 1:
            trio.run({"produce": produce, "read": read}[sys.argv[1]], sys.argv[2])
        else:
            main()
    except KeyboardInterrupt:
        sys.exit(130)
