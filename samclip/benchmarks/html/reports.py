"""The reports of a page, and names of their models that differ between reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.benchmarks.measurements import MemoryUse, State, Timing
from samclip.benchmarks.records import Report
from samclip.benchmarks.report import read_report


@dataclass(frozen=True)
class NamedReport:
    """A report, and the name of its file without the ending."""

    name: str
    report: Report


@dataclass(frozen=True)
class NamedReports:
    """All reports of a page, in the order given."""

    all: tuple[NamedReport, ...]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> NamedReports:
        """Read reports; raises InputError."""
        return cls(tuple(NamedReport(path.stem, read_report(path)) for path in paths))

    def models(self) -> dict[tuple[str, str], str]:
        """Name the models that were timed or measured, by report and model."""
        keys = [
            (source.name, model)
            for source in self.all
            for model in dict.fromkeys(
                [timing.model for timing in source.report.timings]
                + [use.model for use in source.report.memory]
            )
        ]
        repeated = {model for _, model in keys if self._repeats(model, keys)}
        return {
            (source, model): f"{model} ({source})" if model in repeated else model
            for source, model in keys
        }

    def timings(self, state: State) -> Iterator[tuple[str, Timing]]:
        """Return all timings of one state with their model's name on the page."""
        names = self.models()
        for source in self.all:
            for timing in source.report.timings:
                if timing.state == state and timing.samples:
                    yield names[source.name, timing.model], timing

    def memory(self) -> Iterator[tuple[str, MemoryUse]]:
        """Return all memory with its model's name on the page."""
        names = self.models()
        for source in self.all:
            for use in source.report.memory:
                yield names[source.name, use.model], use

    def _repeats(self, model: str, keys: list[tuple[str, str]]) -> bool:
        """Whether two reports of the same benchmark measured a model of this name."""
        benchmarks = {source.name: source.report.benchmark for source in self.all}
        kinds = [benchmarks[source] for source, name in keys if name == model]
        return len(kinds) != len(set(kinds))
