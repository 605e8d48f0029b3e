"""The plots: samples as dots, amounts as bars, two measures as points; scales have round values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree.ElementTree import Element

import numpy as np

from samclip.benchmarks.html.elements import Child, Quantity, colour, el, svg

STEPS = (1, 2, 2.5, 5, 10)
WIDTH = 360.0  # units of a drawing: letters of 11 stay readable on a phone
ROW = 46.0  # of one series of dots
BAR, GAP = 18.0, 32.0
BINS = 90
LONGEST = 32  # letters of a name


@dataclass(frozen=True)
class Axis:
    """Places values between `low` and `high` on pixels from `left` to `right`."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def draw(self, top: float, bottom: float, quantity: Quantity) -> list[Element]:
        """Draw lines at round values, with the values under them."""
        drawn = []
        for value in ticks(self.low, self.high):
            x = self.at(value)
            drawn.append(el("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
            last = value > self.low + 0.9 * (self.high - self.low)
            anchor = "end" if last else "middle" if value > self.low else "start"
            text = quantity.tick(value, self.high)
            drawn.append(el("text", text, x=x, y=bottom + 13, text_anchor=anchor, class_="s"))
        return drawn


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """List round values from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in STEPS if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def from_zero(largest: float, left: float, right: float) -> Axis:
    """Make an axis from 0, so that lengths compare as amounts, to a little over the largest."""
    return Axis(0.0, largest * 1.04 if largest > 0 else 1.0, left, right)


@dataclass(frozen=True)
class Series:
    """Samples of one model, or the parts of one bar with their names."""

    name: str
    values: Sequence[float]
    place: int = 0  # colour
    note: str = ""
    fills: Sequence[str] = ()  # colours of parts, where they are not `place` and those after it


def _title(name: str, x: float, y: float, anchor: str = "start") -> Element:
    """Write a series' name, cut where it would meet the figure at the other end."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    whole = el("title", name) if short != name else None
    return el("text", short, whole, x=x, y=y, text_anchor=anchor, class_="b")


def dots(series: Sequence[Series], quantity: Quantity, label: str) -> Element:
    """Draw every sample as a dot, the median as a line, p95 as a tick; a row for each series."""
    axis = from_zero(max(max(s.values) for s in series), 4, WIDTH - 4)
    bottom = ROW * len(series) + 4
    drawn: list[Child] = [*axis.draw(2, bottom, quantity)]
    for row, one in enumerate(series):
        drawn += _dot_row(one, axis, row * ROW, quantity)
    return svg(WIDTH, bottom + 18, label, *drawn)


def _dot_row(one: Series, axis: Axis, top: float, quantity: Quantity) -> list[Child]:
    middle, x = top + 30, axis.at(median(one.values))
    p95 = axis.at(float(np.percentile(one.values, 95)))
    fill = colour(one.place)
    values = f"median {quantity.write(median(one.values))}"
    return [
        _title(one.name, 4, top + 12),
        el("text", values, x=WIDTH - 4, y=top + 12, text_anchor="end"),
        el("path", d=_swarm(one.values, axis, middle), stroke=fill, stroke_width=4.2,
           stroke_linecap="round", stroke_opacity=0.55, fill="none"),
        el("line", x1=x, x2=x, y1=middle - 11, y2=middle + 11, stroke=fill, stroke_width=2.4),
        el("line", x1=p95, x2=p95, y1=middle + 3, y2=middle + 11, stroke=fill, stroke_width=1.4,
           stroke_dasharray="2 2"),
    ]  # fmt: skip


def _swarm(values: Sequence[float], axis: Axis, middle: float) -> str:
    """Place dots of like values above and below each other, closer where there are many."""
    columns: dict[int, list[float]] = defaultdict(list)
    for value in values:
        columns[round((value - axis.low) / (axis.high - axis.low) * BINS)].append(value)
    step = min(4.4, 20 / max(len(column) for column in columns.values()))
    places = [
        (axis.at(value), middle + (row - (len(column) - 1) / 2) * step)
        for column in columns.values()
        for row, value in enumerate(column)
    ]
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)


def bars(series: Sequence[Series], quantity: Quantity, label: str) -> Element:
    """Draw a bar for each series, its parts one behind the other; the sum stands at its end."""
    axis = from_zero(max(sum(s.values) for s in series), 4, WIDTH - 4)
    bottom = (BAR + GAP - 10) * len(series) + 2
    drawn: list[Child] = [*axis.draw(2, bottom, quantity)]
    for row, one in enumerate(series):
        drawn += _bar(one, axis, row * (BAR + GAP - 10), quantity)
    return svg(WIDTH, bottom + 18, label, *drawn)


def _bar(one: Series, axis: Axis, top: float, quantity: Quantity) -> list[Child]:
    parts, start = [], 0.0
    for place, value in enumerate(one.values):
        x, end = axis.at(start), axis.at(start + value)
        fill = one.fills[place] if one.fills else colour(one.place + place)
        parts.append(el("rect", x=x, y=top + 17, width=max(0.0, end - x), height=BAR, fill=fill))
        start += value
    return [
        _title(one.name, 4, top + 12),
        el(
            "text", f"{quantity.write(start)}{one.note}", x=WIDTH - 4, y=top + 12, text_anchor="end"
        ),
        *parts,
    ]


@dataclass(frozen=True)
class Point:
    """One model: how long it takes, how right it is, and the interval of that."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def scatter(points: Sequence[Point], across_in: Quantity, label: str) -> Element:
    """Draw models by time and accuracy, each with its name; up and left is better."""
    height, left = 190.0, 34.0
    ends = [e for p in points for e in (p.y, p.low, p.high) if e is not None]
    room = max(0.04, (max(ends) - min(ends)) * 0.25)
    across = from_zero(max(p.x for p in points), left, WIDTH - 6)
    up = Axis(max(0.0, min(ends) - room), max(ends) + room, height, 8)
    drawn: list[Child] = [*across.draw(8, height, across_in)]
    for value in ticks(up.low, up.high):
        y = up.at(value)
        drawn.append(el("line", x1=left, x2=WIDTH - 6, y1=y, y2=y, class_="grid"))
        drawn.append(
            el("text", f"{value:.2f}", x=left - 5, y=y + 3.5, text_anchor="end", class_="s")
        )
    for place, point in enumerate(points):
        drawn += _point(point, across, up, colour(place))
    return svg(WIDTH, height + 18, label, *drawn)


def _point(point: Point, across: Axis, up: Axis, fill: str) -> list[Child]:
    x, y = across.at(point.x), up.at(point.y)
    right = x > WIDTH * 0.6
    whisker = None
    if point.low is not None and point.high is not None:
        ends = {"y1": up.at(point.low), "y2": up.at(point.high)}
        whisker = el("line", x1=x, x2=x, **ends, stroke=fill, stroke_width=1.4)
    return [
        whisker,
        el("circle", cx=x, cy=y, r=5, fill=fill),
        _title(point.name, x + (-9 if right else 9), y - 7, "end" if right else "start"),
    ]  # fmt: skip
