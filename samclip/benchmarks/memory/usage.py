"""Results of `samclip-bench memory`: rows, tables, and how the figures are defined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from samclip.benchmarks.formats import MIB
from samclip.benchmarks.measurements import MemoryUse
from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.tables import Cell, Column, Table, text_columns

COLUMNS = (
    *text_columns("up to"),
    Column("peak RSS", lambda value: f"{value / MIB:,.1f}"),
    Column("more", lambda value: f"{value / MIB:+,.1f}"),
    Column("on device", lambda value: f"{value / MIB:,.1f}"),
    Column("read from disk", lambda value: f"{value / MIB:,.1f}"),
    Column("processes"),
)
PROTOCOL = (
    "Each stage is the peak resident set of fresh processes that went as far as that stage and no "
    "further; each includes the stages before it. Of several processes the highest is given.",
    "Pages that processes share, such as libraries, are counted in each.",
    "'read from disk' adds up the bundle's files that were read up to that stage; weights that are "
    "stored in fewer bits are expanded on loading.",
)


def make_memory_rows(uses: Sequence[MemoryUse]) -> tuple[Row, ...]:
    """Return peak, GPU memory and bytes on disk of every stage, and ratios of the peaks."""
    return (*_absolute(uses), *_ratios(uses))


def _absolute(uses: Sequence[MemoryUse]) -> Iterator[Row]:
    for use in uses:
        yield _row(use, "peak resident set", use.peak_rss, min(use.peaks), use.peak_rss)
        if use.device_memory is not None:
            yield _row(use, "device memory", use.device_memory)
        if use.disk is not None:
            yield _row(use, "read from disk", use.disk)


def _ratios(uses: Sequence[MemoryUse]) -> Iterator[Row]:
    firsts: dict[str, MemoryUse] = {}
    for use in uses:
        first = firsts.setdefault(use.stage, use)
        if first is not use:
            lowest = min(use.peaks) / max(first.peaks)
            highest = max(use.peaks) / min(first.peaks)
            value = use.peak_rss / first.peak_rss
            name = f"{use.model} / {first.model}"
            row = _row(use, "peak resident set", value, lowest, highest, "ratio", name)
            yield row


def _row(
    use: MemoryUse,
    measure: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    unit: Unit = "bytes",
    model: str | None = None,
) -> Row:
    """Make a row; `low` and `high` are the least and the most of all processes."""
    return Row(
        model=model or use.model,
        measure=measure,
        subset=use.stage,
        value=float(value),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        n=len(use.peaks),
        photos=1,
        unit=unit,
    )


def memory_tables(uses: Sequence[MemoryUse]) -> Iterator[Table]:
    """Lay out a table for each model: stages with their peaks, and what each adds."""
    for model in dict.fromkeys(use.model for use in uses):
        own = [use for use in uses if use.model == model]
        rows: list[tuple[Cell, ...]] = []
        before = 0
        for use in own:
            more = use.peak_rss - before
            row = (use.stage, use.peak_rss, more, use.device_memory, use.disk, len(use.peaks))
            rows.append(row)
            before = use.peak_rss
        reasons = {use.device_reason for use in own if use.device_memory is None} - {None}
        note = "".join(f"on device: {reason}" for reason in sorted(filter(None, reasons))[:1])
        yield Table(COLUMNS, rows, f"{model}, MiB", note)
