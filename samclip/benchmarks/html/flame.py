"""The flame graph, its root on top: a frame is as wide as its share of the time.

Nothing of it needs a script: what a frame is, how long it took, and its share are its title, which
browsers show on hover. Modules are grey, operators and nodes have the colour of their operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from samclip.benchmarks.formats import percent, seconds
from samclip.benchmarks.html.elements import REST, SERIES, colour, el, svg
from samclip.benchmarks.profiling.stacks import Frame

WIDTH = 960.0  # units of the drawing
ROW = 18.0
LETTER = 6.3  # the width of one of 11 units, at most, on average
PADDING = 4.0
LEAST = 0.4  # narrower frames are left out: the table and the folded stacks have them
FAINT = 0.45  # letters on it are readable in light and dark
WHAT = {"graph": "graph", "module": "module", "operator": "operator", "node": "node",
        "between": "no node"}  # fmt: skip


def operator_colours(operators: tuple[str, ...]) -> dict[str, str]:
    """Return the colour of each operator, the slowest first; the last share one."""
    return {one: colour(place) if place < SERIES else REST for place, one in enumerate(operators)}


def flame(root: Frame, colours: Mapping[str, str], label: str) -> Element:
    """Draw frames; `label` says to screen readers what the drawing shows."""
    drawing = _Drawing(root.seconds, colours)
    frames = list(drawing.frames(root, 0.0, 0, ()))
    return svg(WIDTH, root.depth * ROW, label, *frames)


@dataclass(frozen=True)
class _Drawing:
    whole: float  # seconds
    colours: Mapping[str, str]

    def frames(
        self, frame: Frame, left: float, row: int, above: tuple[str, ...]
    ) -> Iterator[Element]:
        """Draw a frame and those below it; those too narrow to be seen are left out."""
        width = frame.seconds / self.whole * WIDTH if self.whole > 0 else WIDTH
        if width < LEAST:
            return
        path = (*above, frame.name)
        yield self._frame(frame, left, row * ROW, width, path)
        for child in frame.children.values():
            yield from self.frames(child, left, row + 1, path)
            left += child.seconds / self.whole * WIDTH if self.whole > 0 else 0.0

    def _frame(
        self, frame: Frame, left: float, top: float, width: float, path: tuple[str, ...]
    ) -> Element:
        share = frame.seconds / self.whole if self.whole > 0 else 1.0
        title = f"{' > '.join(path)}: {seconds(frame.seconds)}, {percent(share)}"
        fill = self.colours.get(frame.operator)
        letters = int((width - 2 * PADDING) / LETTER)
        return el(
            "g",
            el("title", f"{title} ({WHAT[frame.kind]})"),
            el("rect", x=left, y=top, width=width, height=ROW - 1, fill=fill or "var(--line)",
               fill_opacity=FAINT if fill else None, class_="frame"),
            el("text", _cut(frame.name, letters), x=left + PADDING, y=top + 12.5)
            if letters >= 2
            else None,
        )  # fmt: skip


def _cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}\N{HORIZONTAL ELLIPSIS}"
