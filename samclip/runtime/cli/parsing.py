"""Option values that are small tuples of numbers: points and boxes, in pixels of the image."""

from __future__ import annotations

import typer

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def parse_point(text: str) -> Point:
    """Read `X,Y`; a typer.BadParameter names what came and what was expected."""
    x, y = _numbers(text, 2, "X,Y in pixels, as in 420,310")
    return x, y


def parse_box(text: str) -> Box:
    """Read `X1,Y1,X2,Y2`, two opposite corners; a typer.BadParameter says what is wrong."""
    x1, y1, x2, y2 = _numbers(text, 4, "X1,Y1,X2,Y2 in pixels, as in 10,20,200,240")
    return x1, y1, x2, y2


def _numbers(text: str, count: int, expected: str) -> list[float]:
    """Split `text` at commas into exactly `count` numbers."""
    try:
        numbers = [float(part) for part in str(text).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise typer.BadParameter(f"{text!r} is not {expected}.")
    return numbers
