"""A picture in SVG that can be read in light and in dark surroundings, and on a small screen.

Every picture is WIDTH units wide and has a card of its own behind it. The card and all inks follow
``prefers-color-scheme``. So a picture stays readable where its page is dark and the system is not.
A label that does not fit into its box is an error.
"""

from html import escape

__all__ = ["INKS", "PAPERS", "WIDTH", "Picture"]

WIDTH = 400  # units; text is 14 of them high, so that 360 pixels of a telephone are enough
SIZE = 14
ADVANCE = {"text": 0.55, "code": 0.61}  # of a letter, as a part of its height; a cautious guess

#: What text and lines are drawn with: class -> its colour in light and in dark surroundings.
INKS = {
    "ink": ("#1b2430", "#e6e9ee"),
    "soft": ("#4d5968", "#b3bdca"),
    "bad": ("#b3261e", "#ff9a8f"),
    "good": ("#1a6b32", "#7fd69a"),
}

#: What is filled: class -> its colour in light and in dark surroundings.
PAPERS = {
    "card": ("#ffffff", "#171b21"),
    "plain": ("#eef1f5", "#29313b"),
    "blue": ("#d6e6ff", "#1d3a66"),
    "green": ("#d3f0db", "#1c4a2c"),
    "amber": ("#ffe8bd", "#574012"),
    "red": ("#ffd9d5", "#5c2320"),
}
EDGES = ("#8793a3", "#74808f")

FONTS = (
    "text{font:14px system-ui,'Segoe UI',Roboto,'Helvetica Neue',sans-serif}"
    ".code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}"
    ".middle{text-anchor:middle}.end{text-anchor:end}.small{font-size:12px}"
    ".strong{font-weight:600}"
)


def style() -> str:
    """Return the style sheet of every picture."""
    light, dark = _colours(0), _colours(1)
    return f"{FONTS}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _colours(scheme: int) -> str:
    inks = [
        f"text.{name},.head.{name}{{fill:{pair[scheme]}}}.line.{name}{{stroke:{pair[scheme]}}}"
        for name, pair in INKS.items()
    ]
    papers = [f"rect.{name}{{fill:{pair[scheme]}}}" for name, pair in PAPERS.items()]
    return "".join([*inks, *papers, f"rect{{stroke:{EDGES[scheme]}}}"])


class Picture:
    """Collects shapes; `svg` returns the file. Coordinates are units from the top left corner."""

    def __init__(self, title: str, height: int) -> None:
        self.title = title
        self.height = height
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, *labels: str, fill: str = "plain",
        code: bool = False, small: bool = False,
    ) -> None:  # fmt: skip
        """Draw a filled rectangle with its labels, line below line, in the middle.

        Raises:
            ValueError: a label is too wide for it, or it is not in the picture.
        """
        if min(x, y) < 0 or x + width > WIDTH or y + height > self.height:
            raise ValueError(f"the box {labels} is not in the picture")
        self._parts.append(
            f'<rect class="{fill}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            'rx="4"/>'
        )
        line = 15 if small else 18
        top = y + height / 2 - line * (len(labels) - 1) / 2 + (4 if small else 5)
        for number, label in enumerate(labels):
            need = room(label, code=code, small=small)
            if need > width:
                raise ValueError(f"{label!r} needs {need:.0f} units, the box has {width:g}")
            self.text(
                x + width / 2, top + line * number, label, at="middle", code=code, small=small
            )

    def text(
        self, x: float, y: float, words: str, *, ink: str = "ink", at: str = "start",
        code: bool = False, small: bool = False, strong: bool = False,
    ) -> None:  # fmt: skip
        """Write words; `y` is their base line. `at` says which end of them `x` is.

        Raises:
            ValueError: they are not in the picture.
        """
        need = room(words, code=code, small=small)
        left = {"start": x, "middle": x - need / 2, "end": x - need}[at]
        if left < 0 or left + need > WIDTH or not 10 <= y <= self.height:
            raise ValueError(f"{words!r} is not in the picture: {left:.0f} to {left + need:.0f}")
        flags = {"code": code, "small": small, "strong": strong, at: at != "start"}
        kinds = [ink, *(name for name, given in flags.items() if given)]
        self._parts.append(
            f'<text class="{" ".join(kinds)}" x="{x:g}" y="{y:g}">{escape(words)}</text>'
        )

    def line(
        self, *points: tuple[float, float], ink: str = "soft", dashed: bool = False,
        arrow: bool = False,
    ) -> None:  # fmt: skip
        """Draw a line through the points; `arrow` puts a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self._parts.append(
            f'<polyline class="line {ink}" points="{path}" fill="none" stroke-width="1.6"{dash}/>'
        )
        if arrow:
            self._head(points[-2], points[-1], ink)

    def _head(self, start: tuple[float, float], end: tuple[float, float], ink: str) -> None:
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = (dx * dx + dy * dy) ** 0.5
        dx, dy = 8 * dx / length, 8 * dy / length
        corners = [end, (end[0] - dx - dy / 2, end[1] - dy + dx / 2)]
        corners.append((end[0] - dx + dy / 2, end[1] - dy - dx / 2))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self._parts.append(f'<polygon class="head {ink}" points="{path}"/>')

    def svg(self) -> str:
        """Return the picture as the text of a file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
            f'width="{WIDTH * 1.2:g}" height="{self.height * 1.2:g}" role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{style()}</style>\n"
            f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{self.height - 1}" '
            'rx="8"/>'
        )
        return "\n".join([head, *self._parts, "</svg>\n"])


def room(words: str, *, code: bool = False, small: bool = False) -> float:
    """Return how many units wide these words are, at most, on an ordinary machine."""
    return len(words) * ADVANCE["code" if code else "text"] * (12 if small else SIZE)
