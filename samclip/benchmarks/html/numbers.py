"""Figures as people read them: three digits that mean something, and the unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from samclip.benchmarks.rows import Row, Unit

MIB = 2**20
NONE = "\N{EN DASH}"


def digits(value: float) -> str:
    """Write a number with three significant digits, and never fewer than those before the point."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 4)}f}"


def seconds(value: float) -> str:
    """Write seconds, below one of them in milliseconds."""
    return f"{digits(value)} s" if abs(value) >= 1 else f"{digits(value * 1e3)} ms"


@dataclass(frozen=True)
class Quantity:
    """How a plot writes its figures, and the round values of a scale that ends at `high`."""

    write: Callable[[float], str]
    tick: Callable[[float, float], str]


def _seconds_tick(value: float, high: float) -> str:
    return f"{_round(value)} s" if high >= 1 else f"{_round(value * 1e3)} ms"


def _round(value: float) -> str:
    """Write a round number without zeros behind the point."""
    text = f"{value:,.4f}"
    return text.rstrip("0").rstrip(".")


SECONDS = Quantity(seconds, _seconds_tick)
MEBIBYTES = Quantity(lambda v: f"{digits(v)} MiB", lambda v, _: f"{_round(v)} MiB")
PERCENT = Quantity(lambda v: f"{digits(v)} %", lambda v, _: f"{_round(v)} %")


def mebibytes(value: float) -> str:
    """Write bytes as MiB."""
    return f"{digits(value / MIB)} MiB"


def percent(value: float) -> str:
    """Write a share."""
    if value == 0:
        return "0 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    return f"{value * 100:.1f} %" if value < 0.1 else f"{value:.0%}".replace("%", " %")


def large(value: float) -> str:
    """Write a large number with its prefix: 10.7 M, 972 G."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{digits(value / size)} {prefix}"
    return digits(value)


UNITS: dict[Unit, Callable[[float], str]] = {
    "share": lambda value: f"{value:.3f}",
    "seconds": seconds,
    "ratio": lambda value: f"{digits(value)} \N{MULTIPLICATION SIGN}",
    "per second": lambda value: f"{digits(value)} /s",
    "bytes": mebibytes,
    "joules": lambda value: f"{digits(value)} J",
    "count": large,
}


def of_row(row: Row) -> str:
    """Write a row's value."""
    return NONE if row.value is None else UNITS[row.unit](row.value)


def interval(row: Row) -> str:
    """Write a row's interval, nothing where it has none."""
    if row.low is None or row.high is None or row.low == row.high:
        return ""
    return f"{UNITS[row.unit](row.low)} \N{EN DASH} {UNITS[row.unit](row.high)}"
