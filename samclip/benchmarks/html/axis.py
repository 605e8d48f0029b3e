"""A horizontal scale with round numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import el
from samclip.benchmarks.html.numbers import Quantity

STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """Places values between `low` and `high` on pixels from `left` to `right`."""

    low: float
    high: float
    left: float
    right: float

    def at(self, value: float) -> float:
        """Give the pixel of a value."""
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def draw(self, top: float, bottom: float, quantity: Quantity) -> list[Element]:
        """Draw lines at round values, and what they are under them."""
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
    """Make an axis from 0 to a little over the largest value: lengths then compare as amounts."""
    return Axis(0.0, largest * 1.04 if largest > 0 else 1.0, left, right)
