"""A part of a data set that stands for the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], limit: int | None) -> tuple[T, ...]:
    """Take `limit` items at equal distances, the first among them; all for None or few.

    Files in name order often come sorted by class or by scene, so that the first ones would stand
    for little. Always the same ones for the same items.
    """
    if limit is None or limit >= len(items):
        return tuple(items)
    return tuple(items[index * len(items) // limit] for index in range(limit))
