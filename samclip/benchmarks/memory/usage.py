"""Memory as rows of a report, and as tables.

Records of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from samclip.benchmarks.records import MemoryUse, Row, Unit
from samclip.benchmarks.rows import MIB
from samclip.cli.tables import make_table

PROTOCOL = (
    "Each stage is the peak resident set of fresh processes that went as far as that stage and no "
    "further; each includes the stages before it. Of several processes the highest is given.",
    "Pages that processes share, such as libraries, are counted in each.",
    "'read from disk' adds up the bundle's files that were read up to that stage; weights that are "
    "stored in fewer bits are expanded on loading.",
)


def make_memory_rows(uses: Sequence[MemoryUse]) -> tuple[Row, ...]:
    """Give the peak, the GPU's memory and the bytes on disk of every stage, and ratios of peaks."""
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


def show_memory(uses: Sequence[MemoryUse]) -> Iterator[Table]:
    """Give a table for each model: stages with their peaks and what each adds."""
    for model in dict.fromkeys(use.model for use in uses):
        table = make_table(
            "up to", "peak RSS", "more", "on device", "read from disk", left=("up to",)
        )
        table.title, table.title_justify = escape(f"{model}, MiB"), "left"
        before = 0
        for use in (use for use in uses if use.model == model):
            table.add_row(escape(use.stage), *_cells(use, before))
            before = use.peak_rss
            if use.device_memory is None and use.device_reason is not None:
                table.caption = f"on device: {escape(use.device_reason)}"
                table.caption_justify = "left"
        yield table


def _cells(use: MemoryUse, before: int) -> Iterator[str]:
    yield f"{use.peak_rss / MIB:,.1f}"
    yield f"{(use.peak_rss - before) / MIB:+,.1f}"
    yield "-" if use.device_memory is None else f"{use.device_memory / MIB:,.1f}"
    yield "-" if use.disk is None else f"{use.disk / MIB:,.1f}"
