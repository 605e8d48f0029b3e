"""Comparison of two reports: pairs of rows with their ratio, and what else differs.

Timings are compared by their samples. The two runs did not take turns, so each is resampled
independently. Rows without samples are compared by their intervals, as if errors were log-normal
and independent: the half width of ln(B/A) is the root of the sum of squares of the half widths of
both logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from samclip.benchmarks.formats import as_fast, format_value, more, speed_interval
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.records import Machine, Report, Row, Unit
from samclip.benchmarks.same_models import Matching
from samclip.benchmarks.statistics import LEVEL, RESAMPLES, SEED
from samclip.benchmarks.tables import Column, Table, text_columns
from samclip.errors import InputError

Interval = tuple[float | None, float | None]
HARDWARE = ("cpu", "logical_cores", "usable_cores", "memory", "machine", "jetson", "gpus")
OTHER_MACHINE = (
    "THE REPORTS ARE OF DIFFERENT MACHINES ({what}). The ratios below compare machines, not what "
    "was changed on one."
)
COLUMNS = (
    *text_columns("model", "measure", "subset"),
    Column("before"),
    Column("after"),
    Column("after, against before"),
    Column("95 % interval"),
    *text_columns(""),
)


@dataclass(frozen=True)
class RowPair:
    """One row of both reports: `before` of the first, `after` of the second, and their ratio.

    `low` and `high` are the ends of the ratio's 95 % interval, None where it is unknown.
    """

    model: str
    measure: str
    subset: str
    unit: Unit
    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out 1: there is a difference."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    @property
    def is_stage(self) -> bool:
        """Whether it is of a stage, and not of a task or a whole."""
        return self.measure.startswith("stage: ") or " (of: " in self.measure


def pair_reports(before: Report, after: Report, models: Matching) -> tuple[RowPair, ...]:
    """Pair the rows of the models that both reports have; raises InputError when there are none."""
    if before.benchmark != after.benchmark:
        raise InputError(
            f"the reports are of {before.benchmark!r} and {after.benchmark!r}. Give two of the "
            "same benchmark."
        )
    pairs = tuple(_of_timings(before, after, models)) or tuple(_of_rows(before, after, models))
    if not pairs:
        facts = "; ".join(models.unmatched) or "their models are the same, and no row is"
        raise InputError(
            f"the reports have no row in common: {facts}. Measure the same bundle in both, or all "
            "in one run; or name what to compare nevertheless: --match BEFORE=AFTER"
        )
    return pairs


def missing(before: Report, after: Report, models: Matching) -> tuple[str, ...]:
    """Name the rows of matched models that only one of the reports has."""
    first = {_row_key(row, models.renamed) for row in before.rows}
    second = {_row_key(row, models.kept) for row in after.rows}
    return tuple(
        sorted(
            f"{model}: {measure}, {subset}"
            for model, measure, subset in first ^ second
            if model is not None
        )
    )


def _of_timings(before: Report, after: Report, models: Matching) -> Iterator[RowPair]:
    seconds = {_timing_key(t, models.kept): t for t in after.timings}
    for first in before.timings:
        second = seconds.get(_timing_key(first, models.renamed))
        if second is None or models.renamed(first.model) is None:
            continue
        if not (any(first.samples) and any(second.samples)):
            continue
        values = np.median(first.samples), np.median(second.samples)
        low, high = _bootstrap(first.samples, second.samples)
        where = "" if first.part_of is None else f" (of: {first.part_of})"
        yield RowPair(
            model=second.model,
            measure=f"{first.kind}: {first.name}{where}",
            subset=first.state,
            unit="seconds",
            before=float(values[0]),
            after=float(values[1]),
            ratio=float(values[1] / values[0]) if values[0] > 0 else None,
            low=low,
            high=high,
        )


def _bootstrap(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the interval of the ratio of medians, second by first, each resampled by itself."""
    if min(len(first), len(second)) < 2:
        return None, None
    generator = np.random.default_rng(SEED)

    def draw(samples: Sequence[float]) -> np.ndarray:
        values = np.asarray(samples)
        rows = generator.integers(0, len(values), (RESAMPLES, len(values)))
        return np.asarray(np.median(values[rows], axis=1))

    below, above = draw(first), draw(second)
    sound = below > 0
    if not sound.any():
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(above[sound] / below[sound], [tail, 1 - tail])
    return float(low), float(high)


def _of_rows(before: Report, after: Report, models: Matching) -> Iterator[RowPair]:
    seconds = {_row_key(row, models.kept): row for row in after.rows}
    for first in before.rows:
        second = seconds.get(_row_key(first, models.renamed))
        if second is None or models.renamed(first.model) is None:
            continue
        if first.value is None or second.value is None:
            continue
        low, high = _spread(first, second)
        yield RowPair(
            model=second.model,
            measure=first.measure,
            subset=first.subset,
            unit=first.unit,
            before=first.value,
            after=second.value,
            ratio=second.value / first.value if first.value > 0 else None,
            low=low,
            high=high,
        )


def _spread(first: Row, second: Row) -> Interval:
    if not (first.value and second.value and first.value > 0 and second.value > 0):
        return None, None
    widths = [_half_width(row) for row in (first, second)]
    if None in widths:
        return None, None
    half = math.hypot(*(width for width in widths if width is not None))
    ratio = second.value / first.value
    return ratio * math.exp(-half), ratio * math.exp(half)


def _half_width(row: Row) -> float | None:
    """Return half the width of a row's interval as a logarithm; None where it has none."""
    if row.low is None or row.high is None or row.low <= 0:
        return None
    return math.log(row.high / row.low) / 2


def _timing_key(timing: Timing, name: Callable[[str], str | None]) -> Hashable:
    return name(timing.model), timing.kind, timing.name, timing.part_of, timing.state


def _row_key(row: Row, name: Callable[[str], str | None]) -> tuple[str | None, str, str]:
    return name(row.model), row.measure, row.subset


def other_machine(before: Report, after: Report) -> str | None:
    """Return a loud warning that names what hardware differs; None where it does not."""
    found = [
        f"{name}: {getattr(before.machine, name)} and {getattr(after.machine, name)}"
        for name in HARDWARE
        if getattr(before.machine, name) != getattr(after.machine, name)
    ]
    return OTHER_MACHINE.format(what="; ".join(found)) if found else None


def describe_differences(before: Report, after: Report, models: Matching) -> Iterator[str]:
    """Return what else differs, a line each."""
    yield from _software(before.machine, after.machine)
    pairs = (
        ("samclip", before.samclip, after.samclip),
        ("threads per graph", before.threads.engine, after.threads.engine),
        ("variables", before.threads.environment, after.threads.environment),
        ("photos", _photos(before), _photos(after)),
        ("power mode", _mode(before), _mode(after)),
        ("load of the machine, 1 minute", _load(before), _load(after)),
    )
    for name, first, second in pairs:
        if first != second:
            yield f"{name}: {first} and {second}"
    yield from _settings(before, after, models)


def _software(before: Machine, after: Machine) -> Iterator[str]:
    for name in ("system", "python"):
        first, second = getattr(before, name), getattr(after, name)
        if first != second:
            yield f"{name}: {first} and {second}"
    for package in sorted({*before.packages, *after.packages}):
        versions = [m.packages.get(package, "not installed") for m in (before, after)]
        if versions[0] != versions[1]:
            yield f"{package}: {versions[0]} and {versions[1]}"


def _settings(before: Report, after: Report, models: Matching) -> Iterator[str]:
    firsts = {models.names.get(settings.model): settings for settings in before.settings}
    for second in after.settings:
        first = firsts.get(second.model)
        if first is None:
            continue
        for field in first.__struct_fields__:
            values = getattr(first, field), getattr(second, field)
            if field != "model" and values[0] != values[1]:
                yield f"{second.model}, {field}: {values[0]} and {values[1]}"


def _photos(report: Report) -> str:
    return f"{report.data.photos} of {report.data.path}"


def _mode(report: Report) -> str | None:
    return None if report.conditions is None else report.conditions.power_mode


def _load(report: Report) -> float | None:
    return None if report.threads.load is None else round(report.threads.load[0], 1)


def pairs_table(pairs: Iterable[RowPair]) -> Table:
    """Lay out pairs; the last column marks those whose interval leaves out 1.

    Times are compared as speeds (`as_fast`), everything else by how many times as much it is.
    """
    rows = []
    for pair in pairs:
        is_time = pair.unit == "seconds"
        values = (_value(value, pair.unit) for value in (pair.before, pair.after))
        change = interval = None
        if pair.ratio:
            change = as_fast(pair.ratio) if is_time else more(pair.ratio)
        if pair.low is not None and pair.high is not None:
            ends = pair.low, pair.high
            interval = speed_interval(*ends) if is_time else f"{ends[0]:.3f} - {ends[1]:.3f}"
        mark = ""
        if pair.is_sure and pair.ratio is not None:
            words = ("slower", "faster") if is_time else ("more", "less")
            mark = words[0] if pair.ratio > 1 else words[1]
        rows.append((pair.model, pair.measure, pair.subset, *values, change, interval, mark))
    return Table(COLUMNS, rows)


def _value(value: float, unit: Unit) -> str:
    return f"{value * 1e3:,.2f} ms" if unit == "seconds" else format_value(value, unit)
