"""The rows of `accuracy baselines` as one table a kind of prompt, as Open-Vocabulary SAM's Table 1.

Yuan et al. 2024 set IoU and accuracy on base and novel classes beside parameters and FLOPs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from samclip.benchmarks.accuracy.baselines import (
    MACS,
    MASK,
    PARAMETERS,
    SECONDS,
    TOP1,
    WHOLE,
)
from samclip.benchmarks.rows import Row
from samclip.benchmarks.subsets import ALL, BASE, NOVEL, PHOTOS
from samclip.cli.tables import make_table

NONE = "-"
UNTRAINED = "UNTRAINED: names mean nothing"
Cells = dict[tuple[str, str, str], float | None]  # by model, measure and subset


@dataclass(frozen=True)
class Comparison:
    """All models' answers to one kind of prompt: a head, and a line of cells for each model."""

    prompt: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def comparisons(rows: Sequence[Row], untrained: Collection[str] = ()) -> Iterator[Comparison]:
    """Arrange rows, a comparison for each kind of prompt; `untrained`: models that say so."""
    cells = {(row.model, row.measure, row.subset): row.value for row in rows}
    models = [row.model for row in rows if row.measure == PARAMETERS]
    parts = [part for part in (ALL, BASE, NOVEL) if any(row.subset == part for row in rows)]
    kinds = [row.measure.removesuffix(f" {SECONDS}") for row in rows if row.unit == "seconds"]
    for kind in dict.fromkeys(kinds):
        yield Comparison(
            kind,
            _head(parts, models[0]),
            tuple(_line(cells, kind, parts, models, name, name in untrained) for name in models),
        )


def show_comparison(comparison: Comparison) -> Table:
    """Show a comparison on a terminal."""
    table = make_table(*comparison.head, left=("model",))
    table.title = f"prompt: {comparison.prompt}"
    table.title_justify = "left"
    for line in comparison.lines:
        table.add_row(*map(escape, line))
    return table


def _head(parts: Sequence[str], first: str) -> tuple[str, ...]:
    short = [part.partition(" ")[0] for part in parts]
    means = (f"{measure}, {part}" for measure in (MASK, TOP1) for part in short)
    return ("model", *means, SECONDS, f"x {first}", "M parameters", "GMACs a photo")


def _line(
    cells: Cells,
    kind: str,
    parts: Sequence[str],
    models: Sequence[str],
    name: str,
    is_untrained: bool,
) -> tuple[str, ...]:
    seconds = f"{kind} {SECONDS}"
    share = cells.get((f"{models[0]} / {name}", seconds, PHOTOS))
    times = 1.0 if name == models[0] else share and 1 / share
    shares = [cells.get((name, f"{kind} {what}", part)) for what in (MASK, TOP1) for part in parts]
    return (
        f"{name} ({UNTRAINED})" if is_untrained else name,
        *(_cell(value, "{:.3f}") for value in shares),
        _cell(cells.get((name, seconds, PHOTOS)), "{:.3f}"),
        _cell(times, "{:.2f}"),
        _cell(cells.get((name, PARAMETERS, WHOLE)), "{:,.1f}", 1e6),
        _cell(cells.get((name, f"{kind} {MACS}", PHOTOS)), "{:,.1f}", 1e9),
    )


def _cell(value: float | None, form: str, unit: float = 1.0) -> str:
    return NONE if value is None else form.format(value / unit)
