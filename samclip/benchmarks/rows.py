"""Rows of a report made from estimates, and laid out as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable

from samclip.benchmarks.formats import format_interval, format_value
from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.statistics import Estimate
from samclip.benchmarks.tables import Column, Table, text_columns

COLUMNS = (
    *text_columns("measure", "subset", "model"),
    Column("value"),
    Column("95 % interval"),
    Column("n", "{:,}".format),
    Column("photos", "{:,}".format),
)


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


def rows_table(rows: Iterable[Row]) -> Table:
    """Lay out rows, one a line."""
    cells = [
        (
            row.measure,
            row.subset,
            row.model,
            format_value(row.value, row.unit),
            format_interval(row),
            row.n,
            row.photos,
        )
        for row in rows
    ]
    return Table(COLUMNS, cells)
