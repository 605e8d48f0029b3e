"""Option values that are small tuples of numbers: points and boxes, in pixels of the image."""

from __future__ import annotations

from typing import NamedTuple

import typer


class Point(NamedTuple):
    """(x, y) in pixels of the image."""

    x: float
    y: float


class Box(NamedTuple):
    """Upper left and lower right corner, in pixels of the image."""

    x1: float
    y1: float
    x2: float
    y2: float


def parse_point(text: str) -> Point:
    """Read `X,Y`; a typer.BadParameter names what came and what was expected."""
    return Point(*_numbers(text, 2, "X,Y in pixels, as in 420,310"))


def parse_box(text: str) -> Box:
    """Read `X1,Y1,X2,Y2`, upper left and lower right; a typer.BadParameter says what is wrong."""
    return Box(*_numbers(text, 4, "X1,Y1,X2,Y2 in pixels, as in 10,20,200,240"))


def _numbers(text: str, count: int, expected: str) -> list[float]:
    """Split `text` at commas into exactly `count` numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise typer.BadParameter(f"{text!r} is not {expected}.")
    return numbers
