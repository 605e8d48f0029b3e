"""Pairs of rows as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from samclip.benchmarks.compare.pairs import Pair
from samclip.benchmarks.rows import Unit, format_value
from samclip.cli.tables import make_table

COLUMNS = ("model", "measure", "subset", "before", "after", "after / before", "95 % interval", "")


def show_pairs(pairs: Iterable[Pair]) -> Table:
    """Show pairs; the last column marks those whose interval leaves out 1."""
    table = make_table(*COLUMNS, left=("model", "measure", "subset", ""))
    for pair in pairs:
        values = (_value(value, pair.unit) for value in (pair.before, pair.after))
        ratio = "-" if pair.ratio is None else f"{pair.ratio:.3f} x"
        known = pair.low is not None and pair.high is not None
        interval = f"{pair.low:.3f} - {pair.high:.3f}" if known else "-"
        texts = map(escape, (pair.model, pair.measure, pair.subset))
        table.add_row(*texts, *values, ratio, interval, _mark(pair))
    return table


def _mark(pair: Pair) -> str:
    if not pair.is_sure or pair.ratio is None:
        return ""
    return "more" if pair.ratio > 1 else "less"


def _value(value: float, unit: Unit) -> str:
    return f"{value * 1e3:,.2f} ms" if unit == "seconds" else format_value(value, unit)
