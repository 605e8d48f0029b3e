"""Figures as people read them: a few digits that mean something, and the unit."""

from __future__ import annotations

import math
from collections.abc import Callable

from samclip.benchmarks.records import Row, Unit

MIB = 2**20
NONE = "-"  # a figure that is not known
NEAR_ONE = 0.99


def digits(value: float) -> str:
    """Write a number with three significant digits, and all digits before the point."""
    if not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 4)}f}"


def seconds(value: float) -> str:
    """Write seconds; below one second, as milliseconds."""
    return f"{digits(value)} s" if abs(value) >= 1 else f"{digits(value * 1e3)} ms"


def milliseconds(value: float) -> str:
    """Write seconds as milliseconds without the unit, for a table that names it."""
    return f"{value * 1e3:.2f}"


def mebibytes(value: float) -> str:
    """Write bytes as MiB."""
    return f"{digits(value / MIB)} MiB"


def percent(value: float) -> str:
    """Write a share in percent."""
    if value == 0:
        return "0 %"
    if 0 < value < 0.0005:
        return "< 0.1 %"
    return f"{value * 100:.1f} %" if value < 0.1 else f"{value * 100:.0f} %"


def large(value: float) -> str:
    """Write a large number with its prefix: 10.7 M, 972 G."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{digits(value / size)} {prefix}"
    return digits(value)


def as_fast(ratio: float) -> str:
    """Write a ratio of times as a speed: 0.5 is "2.00x as fast", 1.25 is "0.80x as fast"."""
    return f"{_factor(1 / ratio)}x as fast" if ratio > 0 else NONE


def speed_interval(low: float, high: float) -> str:
    """Write the interval of a ratio of times as that of the speed."""
    return f"{1 / high:.3f} - {1 / low:.3f}" if min(low, high) > 0 else NONE


def more(ratio: float) -> str:
    """Write how many times as much one figure is as another."""
    return f"{ratio:.3f}x"


def _factor(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 10 else digits(value)


def format_value(value: float | None, unit: Unit) -> str:
    """Write the value of a row with its unit; "-" for none."""
    return NONE if value is None else _ROW_FORMATS[unit](value)


def format_interval(row: Row) -> str:
    """Write the interval of a row, in the unit of its value; "-" for none, as AP has none."""
    if row.low is None and row.high is None:
        return NONE
    ends = (format_value(end, row.unit).partition(" ")[0] for end in (row.low, row.high))
    return (" to " if row.unit == "difference" else " - ").join(ends)


def _share(value: float) -> str:
    """Write a share; close to 1, as cosines are, with two digits more."""
    return f"{value:.5f}" if NEAR_ONE <= value < 1 else f"{value:.3f}"


def _short_seconds(value: float) -> str:
    return f"{value:.3f} s" if value >= 0.1 else f"{digits(value)} s"


_ROW_FORMATS: dict[Unit, Callable[[float], str]] = {
    "share": _share,
    "difference": "{:+.4f}".format,
    "seconds": _short_seconds,
    "ratio": more,
    "per second": "{:.2f} /s".format,
    "bytes": lambda value: f"{value / MIB:,.1f} MiB",
    "joules": "{:.3f} J".format,
    "count": lambda value: f"{value / 1e6:,.1f} M",
}
