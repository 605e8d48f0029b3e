"""Rows of a report made from estimates, and laid out as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable

from samclip.benchmarks.formats import (
    NONE,
    as_fast,
    format_interval,
    format_value,
    speed_interval,
)
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


def rows_table(rows: Iterable[Row], among: Iterable[Row] = ()) -> Table:
    """Lay out rows, one a line; ratios of two models' times are written as speeds.

    `among`: all rows of the report, where `rows` leaves some out; a ratio is one of times where
    seconds of the same measure are among them.
    """
    rows = tuple(rows)
    timed = {(row.measure, row.subset) for row in (*rows, *among) if row.unit == "seconds"}
    cells = []
    for row in rows:
        value, interval = format_value(row.value, row.unit), format_interval(row)
        if row.unit == "ratio" and (row.measure, row.subset) in timed and row.value is not None:
            value = as_fast(row.value)
            known = row.low is not None and row.high is not None
            interval = speed_interval(row.low or 0, row.high or 0) if known else NONE
        cells.append((row.measure, row.subset, row.model, value, interval, row.n, row.photos))
    return Table(COLUMNS, cells)
