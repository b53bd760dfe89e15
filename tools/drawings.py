"""Draw the pictures of docs/concepts: ``make drawings``. A test compares them with the files."""

import sys
from collections.abc import Callable
from pathlib import Path

from canvas import Picture

FOLDER = Path(__file__).parent.parent / "docs" / "concepts" / "drawings"


def region() -> Picture:
    """Three processes map one object."""
    picture = Picture("Three processes map one object of /dev/shm into their memory", 246)
    ends = {"process A": (14, 76), "process B": (144, 138), "process C": (274, 200)}
    for name, (x, _) in ends.items():
        picture.box(x, 14, 112, 66, fill="plain")
        picture.text(x + 56, 34, name, at="middle", strong=True)
        picture.box(x + 16, 44, 80, 26, "data", fill="blue")
    picture.box(14, 130, 372, 102, fill="plain")
    picture.box(28, 142, 220, 52, "data", "4 uint64: 32 bytes", fill="blue")
    picture.box(254, 142, 118, 52, "control page", "4096 bytes", fill="amber")
    picture.text(28, 218, "/dev/shm/counters", code=True)
    picture.text(372, 218, "one object of the kernel", at="end", ink="soft", small=True)
    for x, end in ends.values():
        picture.line((x + 56, 70), (x + 56, 92), (end, 142), arrow=True)
    return picture


def lock() -> Picture:
    """What stands between a task and the kernel's lock."""
    picture = Picture("Tasks, cohorts, seats, the gate and the flock", 360)
    picture.box(10, 10, 268, 178, fill="card")
    picture.text(20, 30, "process A", strong=True)
    picture.box(20, 40, 150, 96, fill="plain")
    picture.text(30, 58, "event loop", ink="soft", small=True)
    for x in (30, 76, 122):
        picture.box(x, 64, 40, 24, "task", fill="blue", small=True)
        picture.line((x + 20, 88), (95 + (x - 76) / 3, 106), arrow=True)
    picture.box(30, 106, 132, 24, "cohort: a queue", fill="green", small=True)
    picture.box(180, 40, 88, 96, fill="plain")
    picture.text(190, 58, "thread", ink="soft", small=True)
    picture.box(192, 64, 64, 24, "with", fill="blue", small=True, code=True)
    picture.line((224, 88), (224, 106), arrow=True)
    picture.box(192, 106, 64, 24, "seat", fill="green", small=True)
    picture.box(290, 10, 100, 178, fill="card")
    picture.text(300, 30, "process B", strong=True)
    picture.box(300, 64, 80, 66, "the same", fill="plain", small=True)
    for x, y in {95: 130, 224: 130, 340: 130}.items():
        picture.line((x, y), (x, 152), arrow=True)
        picture.box(x - 28, 152, 56, 26, "OFD", fill="amber", small=True)
        picture.line((x, 178), (x, 220), arrow=True)
    picture.box(10, 220, 380, 48, "the gate: one waiter at a time", "a free lock needs no gate")
    picture.line((200, 268), (200, 298), arrow=True)
    picture.text(210, 288, "the next one", small=True, ink="soft")
    picture.box(10, 298, 380, 48, "flock(2) on the object", "the kernel decides", fill="amber")
    return picture


def fairness() -> Picture:
    """How a writer fares among readers that never pause."""
    picture = Picture("A writer among readers, with flock alone and with the gate", 312)
    picture.text(14, 26, "flock alone", strong=True)
    _rows(picture, 36, ["reader 1", "reader 2", "writer"])
    for y, starts in {38: (84, 190, 296), 68: (136, 242)}.items():
        for start in starts:
            picture.box(start, y, 94 if start < 296 else 90, 22, "reads", fill="blue", small=True)
    _wait(picture, 110, 378, 109, "waits, for ever")
    picture.text(14, 166, "with the gate", strong=True)
    _rows(picture, 176, ["reader 1", "reader 2", "writer"])
    picture.box(84, 178, 94, 22, "reads", fill="blue", small=True)
    picture.box(84, 208, 60, 22, "reads", fill="blue", small=True)
    _wait(picture, 110, 178, 249, "waits")
    picture.box(178, 238, 74, 22, "writes", fill="amber", small=True)
    _wait(picture, 186, 252, 189, "queues")
    _wait(picture, 152, 252, 219, "queues")
    for y in (178, 208):
        picture.box(252, y, 94, 22, "reads", fill="blue", small=True)
    picture.line((84, 282), (386, 282), arrow=True)
    picture.text(84, 300, "time", small=True, ink="soft")
    return picture


def _rows(picture: Picture, top: int, names: list[str]) -> None:
    for number, name in enumerate(names):
        picture.text(14, top + 18 + 30 * number, name, ink="soft", small=True)


def _wait(picture: Picture, start: int, end: int, y: int, word: str) -> None:
    """A dashed line with a word above its beginning."""
    picture.line((start, y + 8), (end, y + 8), dashed=True, ink="bad")
    picture.text(start, y + 3, word, small=True, ink="bad")


def death() -> Picture:
    """What the next process finds after a kill."""
    picture = Picture("A writer is killed, and the next process is told", 400)
    picture.text(44, 26, "generation", at="middle", ink="soft", small=True)
    picture.text(160, 26, "writer", at="middle", strong=True)
    picture.text(312, 26, "next process", at="middle", strong=True)
    picture.line((160, 34), (160, 158), ink="soft")
    picture.line((312, 34), (312, 390), ink="soft")
    steps = [
        (38, "4", "plain", 160, ["acquires"], "blue"),
        (78, "5", "red", 160, ["writes half"], "blue"),
        (118, "5", "red", 160, ["is killed"], "red"),
        (158, "5", "red", 312, ["is granted the lock:", "the kernel freed it"], "blue"),
        (218, "5", "red", 312, ["5 is odd:", "OwnerDiedError"], "red"),
        (278, "5", "red", 312, ["recovers: repairs", "the data"], "blue"),
        (338, "6", "green", 312, ["ends it: sound"], "green"),
    ]
    for y, number, colour, x, words, fill in steps:
        height = 14 + 18 * len(words)
        picture.box(24, y, 40, height, number, fill=colour)
        half = 54 if x == 160 else 80
        picture.box(x - half, y, 2 * half, height, *words, fill=fill)
        picture.line((64, y + height / 2), (x - half, y + height / 2), dashed=True)
    return picture


def snapshot() -> Picture:
    """Which copies show one moment."""
    picture = Picture("Copies beside a writer: which of them show one moment", 210)
    picture.text(14, 26, "generation", ink="soft", small=True)
    picture.box(14, 34, 82, 28, "4", fill="green")
    picture.box(96, 34, 82, 28, "5: writing", fill="red")
    picture.box(178, 34, 82, 28, "6", fill="green")
    tries = [
        (24, 70, "4 and 4: good", "good"),
        (82, 128, "4 and 5: once more", "bad"),
        (150, 150, "5 is odd: once more", "bad"),
        (194, 244, "6 and 6: good", "good"),
    ]
    for number, (start, end, words, ink) in enumerate(tries):
        y = 74 + 28 * number
        for edge in sorted({start, end}):
            picture.line((edge, 62), (edge, y + 20), dashed=True, ink=ink)
        if end > start:
            picture.box(start, y, end - start, 20, "copy", fill="blue", small=True)
        picture.text(266, y + 14, words, ink=ink, small=True)
    picture.line((14, 190), (260, 190), arrow=True)
    picture.text(266, 194, "time", small=True, ink="soft")
    return picture


def ordering() -> Picture:
    """The order in which a writer stores and a snapshot loads."""
    picture = Picture("The order of stores of a writer and of loads of a snapshot", 272)
    columns = [
        (14, "a writer stores", ["generation 5", "release fence", "the data", "generation 6"]),
        (210, "a snapshot loads", ["generation", "the data", "acquire fence", "generation"]),
    ]
    for x, title, steps in columns:
        picture.text(x + 88, 26, title, at="middle", strong=True)
        for number, step in enumerate(steps):
            y = 40 + 46 * number
            fence = step.endswith("fence")
            data = step == "the data"
            fill = "amber" if fence else "blue" if data else "plain"
            picture.box(x, y + (6 if fence else 0), 176, 20 if fence else 32, step, fill=fill)
            if number < 3:
                picture.line(
                    (x + 88, y + (26 if fence else 32)),
                    (x + 88, y + 52 if steps[number + 1].endswith("fence") else y + 46),
                    arrow=True,
                )
    picture.text(
        200,
        246,
        "no store of the data comes before the 5 or after the 6,",
        at="middle",
        small=True,
        ink="soft",
    )
    picture.text(
        200,
        262,
        "no load of it before the first look or after the second",
        at="middle",
        small=True,
        ink="soft",
    )
    return picture


def control_page() -> Picture:
    """The bytes of the control page, from the layout that the C compiler has chosen."""
    from shm_async._shim_ffi import ffi  # noqa: TID251  # its layout is the subject

    fields = [
        (name, field.offset, ffi.sizeof(field.type), ffi.alignof(field.type))
        for name, field in ffi.typeof("shma_control").fields
    ]
    parts = {0: "blue", 128: "amber", 192: "green"}
    rows = (fields[-1][1] + 15) // 16
    picture = Picture("The control page, 16 bytes in each row", 66 + 24 * rows + 20 + 80)
    picture.text(14, 26, "byte", ink="soft", small=True)
    for column in range(0, 16, 4):
        picture.text(50 + 21 * column, 26, f"+{column}", ink="soft", small=True)
    for name, offset, size, _ in fields[:-1]:
        fill = parts[max(start for start in parts if start <= offset)]
        _field(picture, name, offset, size, "plain" if name.startswith("pad") else fill)
    for row in range(rows):
        picture.text(42, 50 + _top(16 * row), str(16 * row), at="end", ink="soft", small=True)
    y = 34 + _top(16 * rows) + 8
    _, offset, size, _ = fields[-1]
    picture.box(50, y, 336, 22, f"{offset} to {offset + size - 1}: unused, 0", small=True)
    for number, (fill, words) in enumerate(
        [
            ("blue", "the creator writes it once"),
            ("amber", "the holder of the write lock"),
            ("green", "waiters and watchers"),
        ]
    ):
        picture.box(50, y + 32 + 22 * number, 16, 16, fill=fill)
        picture.text(74, y + 45 + 22 * number, words, small=True)
    return picture


def _top(offset: int) -> int:
    """How far below the first row the row of a byte begins; a gap stands before each part."""
    return 24 * (offset // 16) + 6 * ((offset >= 128) + (offset >= 192))


def _field(picture: Picture, name: str, offset: int, size: int, fill: str) -> None:
    """Draw a field, in as many rows as it reaches into; the first, widest one has its name."""
    pieces = []
    end = offset + size
    while offset < end:
        length = min(end - offset, 16 - offset % 16)
        pieces.append((offset, length))
        offset += length
    named = max(pieces, key=lambda piece: piece[1])
    for start, length in pieces:
        x, y = 50 + 21 * (start % 16), 34 + _top(start)
        label = [name] if (start, length) == named and not name.startswith("pad") else []
        picture.box(x, y, 21 * length, 22, *label, fill=fill, small=True)


DRAWINGS: dict[str, Callable[[], Picture]] = {
    "region": region,
    "lock": lock,
    "fairness": fairness,
    "death": death,
    "snapshot": snapshot,
    "ordering": ordering,
    "control-page": control_page,
}


def main() -> int:
    """Write all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())
    return 0


if __name__ == "__main__":
    sys.exit(main())
