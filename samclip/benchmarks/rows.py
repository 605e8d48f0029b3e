"""Rows: what every benchmark measures, one figure each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from rich.markup import escape
from rich.table import Table

from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.statistics import Estimate
from samclip.cli.tables import make_table

MIB = 2**20
NEAR_ONE = 0.99


def make_row(
    model: str,
    measure: str,
    subset: str,
    estimate: Estimate,
    unit: Unit = "share",
    detail: bool = False,
) -> Row:
    """Make a row of an estimate; a number that is not finite, which JSON lacks, becomes None."""
    value, low, high = (
        number if math.isfinite(number) else None
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return Row(
        model=model,
        measure=measure,
        subset=subset,
        value=value,
        low=low,
        high=high,
        n=estimate.n,
        photos=estimate.photos,
        unit=unit,
        detail=detail,
    )


def show_rows(rows: Iterable[Row]) -> Table:
    """Show rows as a table, without those of detail."""
    columns = ("measure", "subset", "model", "value", "95 % interval", "n", "photos")
    table = make_table(*columns, left=("measure", "subset", "model"))
    for row in rows:
        if row.detail:
            continue
        texts = map(escape, (row.measure, row.subset, row.model))
        value, interval = format_value(row.value, row.unit), _interval(row)
        table.add_row(*texts, value, interval, f"{row.n:,}", f"{row.photos:,}")
    return table


def format_value(value: float | None, unit: Unit) -> str:
    """Write a figure with its unit for people; "-" for none."""
    return "-" if value is None else _FORMATS[unit](value)


def _interval(row: Row) -> str:
    """Say where a figure lies; "-" for one that has no interval, such as AP."""
    if row.low is None and row.high is None:
        return "-"
    return f"{_number(row.low, row.unit)} - {_number(row.high, row.unit)}"


def _number(value: float | None, unit: Unit) -> str:
    """Write the end of an interval, in the unit that stands beside the value."""
    return "-" if value is None else _FORMATS[unit](value).partition(" ")[0]


def _share(value: float) -> str:
    """Write a share; close to 1, as cosines are, two digits more tell what differs."""
    return f"{value:.5f}" if NEAR_ONE <= value < 1 else f"{value:.3f}"


_FORMATS: dict[Unit, Callable[[float], str]] = {
    "share": _share,
    "seconds": lambda value: f"{value:.3f} s",
    "ratio": lambda value: f"{value:.3f} x",
    "per second": lambda value: f"{value:.2f} /s",
    "bytes": lambda value: f"{value / MIB:,.1f} MiB",
    "joules": lambda value: f"{value:.3f} J",
    "count": lambda value: f"{value / 1e6:,.1f} M",
}
